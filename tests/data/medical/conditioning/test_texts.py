"""Texts that say nothing, that one slice cannot answer, that are given away, that are too long."""

import dataclasses
import json
import pathlib

import pytest

from medjax.data.medical.conditioning import (
    beyond_slice,
    given_away,
    languages,
    lengths,
    placeholders,
)
from medjax.data.medical.conditioning.settings import Settings
from medjax.data.medical.conditioning.words import holds, same
from medjax.data.medical.record import Question
from medjax.data.tokenizer import train_tokenizer
from medjax.errors import UserError

SENTENCES = json.loads(pathlib.Path(__file__).with_name("sentences.json").read_text())
DROPPED = [(text, why) for why, texts in SENTENCES["dropped"].items() for text in texts]


def answers(records):
    return [question.answer for record in records for question in record.questions]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        (" -- . ", "empty"),
        ("Replace this - DESCRIPTION OF THE IMAGE", "placeholder left in"),
        ("TBD", "placeholder left in"),
        ("N/A", "not available"),
        (" n/a.", "not available"),
        ("Not Listed", "not available"),
        ("No caption provided", "not available"),
        ("no history given", "not available"),
        ("Left  Blank", "left blank"),
        ("see above", "refers elsewhere"),
        ("(see discussion)", "refers elsewhere"),
        ("Same as image 2.", "refers elsewhere"),
        ("[Image 1]", "a reference to an image alone"),
        ("[Image not available]", "a reference to an image alone"),
        ("Figure 3a", "a reference to an image alone"),
        ("synpic12345.png", "a reference to an image alone"),
    ],
)
def test_what_says_nothing(text, why):
    assert placeholders.says_nothing(text) == why


@pytest.mark.parametrize(
    "text",
    [
        "no", "None", "4", "yes", "Normal", "No findings", "negative",
        "See the mass in the left lobe", "Image of the liver", "The image shows a mass",
        "No history of trauma", "Blank image",
        "As seen in image 2, the mass is round", "NA+ channel blocker", "肝", "ct",
        "<loc0001><loc0002><loc0003><loc0004> liver",
    ],
)  # fmt: skip
def test_what_says_something(text):
    assert placeholders.says_nothing(text) == ""


def test_placeholders_go_from_questions_and_facts(record):
    caption = Question("c", "caption", "", "Replace this - DESCRIPTION", form="caption")
    records = [
        record("a", caption, "N/A", "a mass", caption=caption.answer, plane="Axial"),
        record("b", "a cyst", caption="A cyst.", location="Left Blank"),
    ]
    kept, report = placeholders.step(records, Settings())
    assert answers(kept) == ["a mass", "a cyst"]
    assert [r.facts for r in kept] == [{"plane": "Axial"}, {"caption": "A cyst."}]
    assert report.dropped == {"not available": 1, "placeholder left in": 1}
    assert report.changed == {"fact taken away: caption": 1, "fact taken away: location": 1}
    assert {(case.record.id, case.why) for case in report.cases} == {
        ("a", "placeholder left in"),
        ("a", "not available"),
        ("a", "fact taken away: caption"),
        ("b", "fact taken away: location"),
    }


def test_languages_that_are_not_listed_go(record):
    questions = [Question(f"{i}", "open", "?", code, language=code) for i, code in enumerate(
        ("en", "zh", "zh", "de"))]  # fmt: skip
    kept, report = languages.step([record("a", *questions)], Settings(languages=("en", "de")))
    assert answers(kept) == ["en", "de"]
    assert report.dropped == {"language zh": 2}
    assert not report.warnings
    _, report = languages.step([record("a", *questions)], Settings(languages=("fr",)))
    assert report.warnings == ("No question is in fr.",)


@pytest.mark.parametrize("text", SENTENCES["kept"])
def test_what_one_slice_can_answer(text):
    assert beyond_slice.cannot_answer(text) == ""


@pytest.mark.parametrize(("text", "why"), DROPPED)
def test_what_one_slice_cannot_answer(text, why):
    assert beyond_slice.cannot_answer(text) == why


def test_the_sentences_are_many():
    assert len(SENTENCES["kept"]) >= 40
    assert len(DROPPED) >= 40


@pytest.mark.parametrize(
    ("answer", "only"),
    [
        ("3.2 cm", True),
        ("5 x 4 x 3 mm", True),
        ("It measures about 2 by 3 cm.", True),
        ("a 5 cm mass in the liver", False),
        ("5", False),
        ("C4 to C6", False),
    ],
)
def test_answers_that_are_measurements(answer, only):
    assert beyond_slice.is_measurement(answer) == only


def test_beyond_slice_looks_at_english_questions_of_people(record):
    records = [
        record(
            "a",
            Question("1", "open", "How large is it?", "large"),
            Question("2", "caption", "", "3 cm", form="caption"),
            Question("3", "open", "Wie alt ist der Patient?", "40", language="de"),
            Question("4", "history", "What else is known?", "a cough"),
            Question("5", "open", "What is it?", "2 cm"),
            Question("6", "open", "What is it?", "a mass of 2 cm"),
        )
    ]
    kept, report = beyond_slice.step(records, Settings())
    assert [q.id for q in kept[0].questions] == ["2", "3", "6"]
    assert report.dropped == {"history": 1, "measurement": 2}
    assert report.figures == {"answers_kept_that_mention_a_measurement": 2}
    assert "'de'" in report.warnings[0]


def test_words_compare_whatever_their_spelling():
    assert same("Pulmonary embolism (PE)") == same("pulmonary  Embolism")
    assert same("Ménière's") == same("MENIERE’S")
    assert same("(PE)") == "pe"
    assert holds("Typical gall-stones seen", "Gall stones")
    assert not holds("Typical gallstones seen", "stones")
    assert not holds("anything", "  ")


def diagnosed(record, caption, diagnosis, *, form="caption", **facts):
    questions = [
        Question("c", "caption", "What?", caption, form=form, facts=facts),
        Question("d", "diagnosis", "Which?", diagnosis),
    ]
    return record("a", *questions, caption=caption, diagnosis=diagnosis)


@pytest.mark.parametrize(
    ("caption", "diagnosis", "gone"),
    [
        ("A large Glioblastoma, with edema.", "glioblastoma", True),
        ("CT of pulmonary embolism.", "Pulmonary Embolism (PE)", True),
        ("CT of a PE.", "Pulmonary Embolism (PE)", False),
        ("Pulmonary artery embolism", "Pulmonary embolism", False),
        ("A mass.", "glioblastoma", False),
    ],
)
def test_diagnoses_that_the_caption_names_are_not_asked(record, caption, diagnosis, gone):
    kept, report = given_away.step([diagnosed(record, caption, diagnosis)], Settings())
    assert [q.id for q in kept[0].questions] == (["c"] if gone else ["c", "d"])
    assert sum(report.dropped.values()) == gone
    assert report.figures == {"images_whose_caption_names_the_diagnosis": int(gone)}


def test_a_caption_that_is_not_learnt_gives_nothing_away(record):
    caption = "A glioma."
    kept, report = given_away.step(
        [diagnosed(record, caption, "glioma", form="answer")], Settings()
    )
    assert len(kept[0].questions) == 2
    assert report.figures == {"images_whose_caption_names_the_diagnosis": 1}
    made_of_it = diagnosed(record, caption, "glioma", form="answer", source="caption")
    assert len(given_away.step([made_of_it], Settings())[0][0].questions) == 1


def test_long_answers_go_and_lengths_are_told(record):
    texts = ("one", "one two.", " ".join(["word"] * 130), " ".join(["word"] * 600))
    records = [record("a", *texts[:2]), record("b", *texts[2:], task="caption")]
    kept, report = lengths.step(records, Settings(max_answer_tokens=128))
    assert answers(kept) == list(texts[:2])
    assert report.dropped == {"more than 128 words and punctuation marks": 2}
    figures = report.figures
    assert (figures["counted"], figures["tokenizer"]) == ("words and punctuation marks", "")
    assert figures["longer_than"] == {"128": 2, "256": 1, "512": 1}
    assert figures["longest"] == 600
    assert figures["tasks"]["open"] == {"answers": 2, "median": 1, "longest": 3, "dropped": 0}
    assert figures["tasks"]["caption"]["dropped"] == 2
    filled = {(b["from"], b["to"]): b["answers"] for b in figures["histogram"] if b["answers"]}
    assert filled == {(0, 1): 1, (3, 4): 1, (129, 256): 1, (513, 1024): 1}


def test_bins_hold_every_length_once():
    every = list(range(1100))
    bins = lengths.histogram(every)
    assert sum(b["answers"] for b in bins) == len(every)
    for b in bins:
        assert b["answers"] == sum(b["from"] <= n <= b["to"] for n in every)
    assert {128, 256, 512} <= {b["to"] for b in lengths.histogram([1])}
    assert lengths.histogram([]) == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("a mass, in the lung.", 7),
        ("<loc0001><loc0002><loc0003><loc0004> liver", 5),
        ("肝脏 CT 图像", 5),
        ("  ", 0),
    ],
)
def test_words_and_marks(text, count):
    assert lengths.counter("").count(text) == count


def test_tokens_are_the_tokenizer_s(record, tmp_path):
    path = tmp_path / "tokenizer.model"
    tokenizer = train_tokenizer(["a mass in the lung"] * 3, path, 300)
    text = "a mass in the lung"
    most = len(tokenizer.encode(text))
    settings = Settings(max_answer_tokens=most, tokenizer=str(path))
    kept, report = lengths.step([record("a", text, f"{text} x")], settings)
    assert answers(kept) == [text]
    assert report.dropped == {f"more than {most} tokens": 1}
    assert report.figures["tokenizer"] == tokenizer.fingerprint
    missing = dataclasses.replace(settings, tokenizer=str(tmp_path / "none.model"))
    with pytest.raises(UserError, match=r"none\.model"):
        lengths.step([], missing)
