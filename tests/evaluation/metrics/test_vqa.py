"""VQA's metrics against what the official code made of the same answers (tests/reference)."""

import json
import pathlib

import pytest

from medjax.evaluation import metrics
from medjax.evaluation.metrics import kinds, vqa

RECORDED = pathlib.Path(__file__).parents[2] / "reference" / "metrics" / "vqa.json"


@pytest.fixture(scope="module")
def recorded():
    return json.loads(RECORDED.read_text())


def test_normalisation_is_the_official_one(recorded):
    assert len(recorded["normalised"]) > 300
    found = {text: vqa.vqa_normalise(text) for text, _ in recorded["normalised"]}
    assert found == {text: official for text, official in recorded["normalised"]}


def test_contractions_are_the_official_ones(recorded):
    assert dict(recorded["contractions"]) == vqa._CONTRACTIONS


def test_accuracy_over_people_is_the_official_one(recorded):
    for said, people, percent in recorded["accuracy"]:
        assert 100 * vqa.vqa_accuracy(said, people) == pytest.approx(percent, abs=0.005), said


def test_recall_is_llava_meds(recorded):
    for said, true, recall in recorded["recall"]:
        assert vqa.open_recall(said, true) == pytest.approx(recall), (said, true)


def test_accuracy_against_one_answer_normalises_both():
    assert vqa.vqa_accuracy("The liver.", ["liver"]) == 1.0
    assert vqa.vqa_accuracy("liver", ["the liver"]) == 1.0
    assert vqa.vqa_accuracy("spleen", ["liver"]) == 0.0
    with pytest.raises(ValueError, match="needs an answer"):
        vqa.vqa_accuracy("liver", [])


def scores(said, truth, question="is it?", **extra):
    return metrics.score(question, said, truth, extra=extra, names=["vqa"])


def test_people_answers_come_from_the_dataset():
    people = ["yes", "yes", "yes", "no"]
    assert scores("no", "yes", answers=people)["vqa_accuracy"] == pytest.approx(1 / 4)
    assert scores("yes", "yes")["vqa_accuracy"] == 1.0


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("Yes", 1), ("yes, there is no doubt", 1), ("There is no effusion.", 0), ("nothing", 0),
        ("", 0), ("yesterday", 0), ("No - although yes, on the left", 0),
    ],
)  # fmt: skip
def test_closed_takes_the_first_yes_or_no(said, right):
    assert scores(said, "Yes.")["closed_accuracy"] == right


@pytest.mark.parametrize(
    ("said", "truth", "right"),
    [
        ("是的", "是", 1), ("不是", "是的", 0), ("没有骨折", "没有", 1), ("存在肿块", "不存在", 0),
        ("肺", "是", 0),
    ],
)  # fmt: skip
def test_closed_knows_chinese(said, truth, right):
    assert scores(said, truth)["closed_accuracy"] == right


CHOICES = [
    {"A": "lung", "B": "left lung", "C": "liver"},
    ["lung", "left lung", "liver"],
    '{"A": "lung", "B": "left lung", "C": "liver"}',
    "A: lung; B: left lung; C: liver",
    "(A) lung\n(B) left lung\n(C) liver",
]


@pytest.mark.parametrize("choices", CHOICES)
def test_choices_are_understood_as_datasets_write_them(choices):
    assert kinds.choices_of("which?", {"choices": choices}) == CHOICES[0]


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("B", 1), ("b)", 1), ("(B) left lung", 1), ("Answer: B.", 1),
        ("The correct answer is B", 1), ("left lung", 1), ("It is the left lung.", 1),
        ("lung", 0), ("A", 0), ("B or C", 0),
        ("a left lung", 1), ("lung and liver", 0), ("", 0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("truth", ["B", "left lung"])
def test_closed_takes_the_letter_or_the_text_of_a_choice(said, right, truth):
    assert scores(said, truth, choices=CHOICES[0])["closed_accuracy"] == right


def test_choices_may_stand_in_the_question():
    question = "Which organ? A: lung B: liver"
    assert kinds.choices_of(question, {}) == {}  # no separator: "B: liver" may be anything
    question = "Which organ?\nA: lung\nB: liver"
    assert scores("B", "liver", question, answer_type="closed")["closed_accuracy"] == 1.0


def test_other_closed_answers_hold_the_truth_word_for_word():
    closed = {"answer_type": "CLOSED "}
    assert scores("This is an axial plane.", "Axial", **closed)["closed_accuracy"] == 1.0
    assert scores("biaxial", "axial", **closed)["closed_accuracy"] == 0.0


def test_open_and_closed_are_the_datasets_word_else_the_answers():
    assert metrics.answer_type("yes", {}) == "closed"
    assert metrics.answer_type("yes", {"answer_type": "OPEN"}) == "open"
    assert metrics.answer_type("axial", {"answer_type": "closed "}) == "closed"
    assert metrics.answer_type("B", {"choices": ["x", "y"]}) == "closed"
    assert metrics.answer_type("the liver", {}) == "open"
    assert set(scores("liver", "liver")) == {"vqa_accuracy", "open_recall", "open_f1"}
    assert set(scores("yes", "yes")) == {"vqa_accuracy", "closed_accuracy"}
