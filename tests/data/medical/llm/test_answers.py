"""Answers: all of one that can be used, nothing of one that can't."""

import json

import pytest

from medjax.data.faults import BadExample
from medjax.data.medical.llm import answers

SCHEMA = answers.schema(("plane", "findings"), 2)
GOOD = {
    "question": "Is the plane axial or coronal?",
    "answer": " axial ",
    "answer_type": "closed",
    "task": "plane",
}
OPEN = {
    "question": "What is\nseen?",
    "answer": "A mass.",
    "answer_type": "open",
    "task": "findings",
}


def read(*pairs: dict, language: str = "en") -> tuple[answers.Pair, ...]:
    return answers.read(json.dumps({"pairs": pairs}), "stop", SCHEMA, language)


def test_good():
    assert read(GOOD, OPEN) == (
        answers.Pair("Is the plane axial or coronal?", "axial", "closed", "plane"),
        answers.Pair("What is seen?", "A mass.", "open", "findings"),
    )
    assert read() == ()


@pytest.mark.parametrize(
    "text", ["```json\n{}\n```", "```\n{}```", '<think>a {"pairs": 1}\n</think>\n\n{}', " {}\n"]
)
def test_wrappings(text):
    whole = text.replace("{}", json.dumps({"pairs": [GOOD]}))
    assert answers.read(whole, "stop", SCHEMA, "en") == read(GOOD)


@pytest.mark.parametrize(
    ("text", "reason", "said"),
    [
        ("Here are the pairs", "not JSON", "not JSON"),
        ("", "not JSON", "not JSON"),
        ("[" * 100_000, "not JSON", "not JSON"),
        ('{"pairs": [NaN]}', "not JSON", "NaN"),
        ("[]", "not of the schema", "at $: [] is not of type 'object'"),
        ("{}", "not of the schema", "'pairs' is a required property"),
        ('{"pairs": [], "note": ""}', "not of the schema", "'note' was unexpected"),
    ],
)
def test_no_pairs(text, reason, said):
    with pytest.raises(BadExample) as error:
        answers.read(text, "stop", SCHEMA, "en")
    assert error.value.reason == reason
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "reason", "said"),
    [
        ({"answer": ""}, "not of the schema", "at $.pairs[1].answer"),
        ({"answer": 3}, "not of the schema", "3 is not of type 'string'"),
        ({"task": "age"}, "not of the schema", "'age' is not one of ['plane', 'findings']"),
        ({"why": "x"}, "not of the schema", "'why' was unexpected"),
        ({"answer": " \n"}, "against the rules", "blank"),
        ({"answer": "\ud800"}, "invalid text", "half a character"),
        ({"question": GOOD["question"].upper()}, "against the rules", "stands there twice"),
        ({"answer_type": "closed"}, "against the rules", "so it is not closed"),
        ({"question": "What does the caption say?"}, "against the rules", "speaks of a text"),
        ({"question": "According to the report, what is it?"}, "against the rules", "speaks of"),
    ],
)
def test_one_bad_pair_spoils_all(wrong, reason, said):
    with pytest.raises(BadExample) as error:
        read(GOOD, OPEN | wrong)
    assert error.value.reason == reason
    assert said in str(error.value)


def test_too_many():
    with pytest.raises(BadExample, match="is too long"):
        read(GOOD, OPEN, OPEN | {"question": "Which side?"})


def test_cut_off():
    with pytest.raises(BadExample, match="write fewer pairs"):
        answers.read(json.dumps({"pairs": [GOOD]}), "length", SCHEMA, "en")


def test_other_languages_have_other_words_for_yes():
    yes = {"question": "È assiale?", "answer": "sì", "answer_type": "closed"}
    assert read(OPEN | yes, language="it")[0].answer == "sì"


def test_endpoints_are_sent_no_lengths():
    sent = answers.without_lengths(SCHEMA)
    assert "Length" not in json.dumps(sent)
    assert "Items" not in json.dumps(sent)
    pair = sent["properties"]["pairs"]["items"]
    assert pair["required"] == list(pair["properties"])  # as strict schemas must have it


def test_words_and_schema_agree():
    words = answers.in_words(("plane", "findings"), 2)
    shown = json.loads(words.splitlines()[1])
    pair = SCHEMA["properties"]["pairs"]["items"]
    assert list(shown["pairs"][0]) == pair["required"]
    assert "at most 2" in words
    assert '"plane", "findings"' in words
