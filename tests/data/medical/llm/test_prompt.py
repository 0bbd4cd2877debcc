"""Prompts: what they tell a model of a record, and what is wrong with a file."""

import pytest

from medjax.data.medical.llm import prompt
from medjax.data.medical.record import Record
from medjax.errors import UserError

HEAD = "---\nsource: caption\nmode: pre_training\nrequires: caption\ntasks: plane, findings\n---\n"
GOOD = (
    HEAD + "# System\nBe short.\n# User\nCaption: {caption}\nPlane: {plane}\n{pairs} {language}\n"
)
SETTINGS = {"pairs": "4", "language": "en"}


def record(**facts: str) -> Record:
    return Record("I1", None, facts=facts)


@pytest.mark.parametrize("name", prompt.NAMES)
def test_built_in(name):
    read = prompt.read(name)
    assert (read.name, read.source) == (name, name)
    assert read.mode == {"caption": "pre_training", "case": "alignment"}[name]
    # Neither history nor who the patient is is told, so neither can be asked for.
    assert not set(read.facts) & {"history", "age", "sex", "treatment", "exam", "diagnosis_by"}
    facts = dict.fromkeys(prompt.FACTS, "FACT")
    system, user = read.texts(record(**facts), SETTINGS)
    assert user.count("FACT") == len(read.facts)
    assert "at most 4 pairs" in user
    assert "{" not in system + user


def test_what_is_unknown_is_left_out():
    read = prompt.parse(GOOD, "own", "own.md")
    known = record(caption=" a {plane} and {x} ", plane="  ")
    assert read.texts(known, SETTINGS) == ("Be short.", "Caption: a {plane} and {x}\n4 en")
    assert read.facts == ("plane", "caption")
    assert (read.lacks(known), read.lacks(record(plane="axial"))) == ("", "caption")


def test_braces_that_are_no_placeholder():
    read = prompt.parse(GOOD + '{"pairs": []} {}\n', "own", "own.md")
    assert read.texts(record(caption="x"), SETTINGS)[1].endswith('{"pairs": []} {}')


def test_the_digest_is_of_the_text(tmp_path):
    file = tmp_path / "own.md"
    file.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert prompt.read(str(file)) == prompt.parse(GOOD, "own", "own.md")
    assert prompt.parse(GOOD + "More.", "own", "own.md").digest != prompt.read(str(file)).digest


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            GOOD.replace("{plane}", "{plain}"),
            "own.md: unknown placeholder {plain}; known are type",
        ),
        (GOOD.replace("Be", "{Be}"), "{Be}"),
        (GOOD.replace("# User", "# Users"), '"# User"'),
        (GOOD.removeprefix("---\n"), "a head between"),
        (HEAD + "# System\n\n# User\n\n", 'nothing follows "# User"'),
        (GOOD.replace("mode: pre_training", "mode: easy"), "mode is 'easy': choose one of pre_tr"),
        (GOOD.replace("source: caption\n", ""), "the head lacks source"),
        (GOOD.replace("plane, findings", ","), "tasks is empty"),
        (GOOD.replace("requires: caption", "requires: captions"), "requires names captions"),
        (GOOD.replace("requires", "needs"), "the line 'needs: caption'"),
    ],
)
def test_what_is_wrong(text, said):
    with pytest.raises(UserError) as error:
        prompt.parse(text, "own", "own.md")
    assert said in str(error.value)


def test_no_such_file():
    with pytest.raises(UserError, match=r"nowhere.md can't be read .* one of caption, case"):
        prompt.read("nowhere.md")
