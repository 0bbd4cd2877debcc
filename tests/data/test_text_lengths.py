"""Texts that do not fit are found by measuring, without a look at their images."""

import logging
import pickle

import pytest

from medjax.data.example import Example
from medjax.data.prompts import TextTransform
from medjax.data.text_lengths import long_texts, without_long_texts
from medjax.data.tokenizer import train_tokenizer
from medjax.errors import UserError

QUESTIONS = ("a", "a " * 20, "a")
ANSWERS = ("b", "b", "b " * 20)


class Source:
    """Three examples: one of a long question, one of a long answer; no image can be read."""

    faults = {"missing image": 2}

    def __len__(self):
        return 3

    def __getitem__(self, index):
        place = f"own.jsonl:{index + 1}"
        return Example(f"q{index}", _no_image, QUESTIONS[index], ANSWERS[index], where=place)


def _no_image():
    raise AssertionError("an image was read")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    return TextTransform(train_tokenizer(["a b"], path, 300), 12)


def test_what_is_too_long(text):
    needed = [text.tokens_needed(example) for example in Source()]
    assert list(long_texts(Source(), text)) == [(1, needed[1]), (2, needed[2])]
    assert [index for index, _ in long_texts(Source(), text, answers=False)] == [1]


def test_a_long_text_stops_with_file_and_line(text):
    with pytest.raises(UserError, match=r"^own.jsonl:2: the text of 'q1' takes \d+ tokens") as info:
        without_long_texts("own", Source(), text)
    assert "text_length is 12" in str(info.value)
    assert "data.on_long_text=truncate" in str(info.value)
    assert "data.on_bad_example=skip" in str(info.value)


def test_long_texts_may_be_left_out_and_are_counted(text, caplog):
    with caplog.at_level(logging.WARNING):
        kept = without_long_texts("own", Source(), text, on_bad_example="skip")
    assert [example.id for example in kept] == ["q0"]
    assert kept.faults == {"missing image": 2, "long text": 2}
    assert "own: left out 2 rows (2 long text), kept 1." in caplog.text
    assert pickle.loads(pickle.dumps(kept))[0].id == "q0"
    asked = without_long_texts("own", Source(), text, answers=False, on_bad_example="skip")
    assert [example.id for example in asked] == ["q0", "q2"]


def test_a_source_that_fits_stays_as_it_is(text):
    source = Source()
    roomy = TextTransform(text.tokenizer, 200)
    assert without_long_texts("own", source, roomy) is source


def test_nothing_left(text):
    tight = TextTransform(text.tokenizer, 2)
    with pytest.raises(UserError, match=r"own has no row to use \(3 long text\)"):
        without_long_texts("own", Source(), tight, on_bad_example="skip")
