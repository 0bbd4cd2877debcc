import dataclasses
import json
import math

import numpy as np
import pytest

from medjax.data.example import Example
from medjax.evaluation import bootstrap, table
from medjax.evaluation.predictions import from_example

PIXELS = np.zeros((4, 4, 3), np.uint8)
WHOLE = "<loc0000><loc0000><loc1023><loc1023> brain"
THIRD = "<loc0000><loc0000><loc1023><loc0341> brain"
ASKED = [  # task, slab, question, truth
    ("plane", "s1", "which plane?", "axial"),
    ("plane", "s1", "which plane?", "axial"),
    ("plane", "s2", "which plane?", "coronal"),
    ("plane", "s3", "which plane?", "coronal"),
    ("level", "s1", "how high?", "top"),
    ("level", "s2", "how high?", "top"),
    ("caption", "s1", "caption en", "a b"),
    ("brain", "s1", "detect brain", WHOLE),
    ("brain", "s2", "detect brain", WHOLE),
]
BASE = ["axial", "coronal", "coronal", "axial", "top", "low", "a c", WHOLE, THIRD]
BETTER = ["axial", "axial", "coronal", "axial", "top", "top", "a b", WHOLE, WHOLE]


def answered(answers, asked=ASKED):
    return [
        from_example(
            Example(f"q{i}", PIXELS, question, truth, "image", {"task": task, "slab": slab}), said
        )
        for i, ((task, slab, question, truth), said) in enumerate(zip(asked, answers, strict=True))
    ]


@pytest.fixture
def results():
    return table.results({"base": answered(BASE), "better": answered(BETTER)[::-1]})


def test_numbers(results):
    values = {
        (row.task, row.metric): (
            row.questions,
            row.groups,
            *(pytest.approx(e.value) for e in row.estimates.values()),
        )
        for row in results.rows
    }
    assert values == {
        ("level", "exact_match"): (2, 2, 0.5, 1.0),
        ("plane", "exact_match"): (4, 3, 0.5, 0.75),
        ("brain", "iou"): (2, 2, 2 / 3, 1.0),
        ("caption", "exact_match"): (1, 1, 0.0, 1.0),
        ("caption", "token_f1"): (1, 1, 0.5, 1.0),
        ("overall", "exact_match"): (6, 3, 0.5, 5 / 6),
    }
    assert [row.task for row in results.rows] == [
        "level",
        "plane",
        "brain",
        "caption",
        "caption",
        "overall",
    ]


def test_intervals_are_the_bootstrap_over_slabs(results):
    better = results.overall.estimates["better"]
    slabs = ["s1", "s1", "s2", "s3", "s1", "s2"]
    assert (better.low, better.high) == bootstrap.interval([1, 1, 1, 0, 1, 1], slabs)
    gain = results.overall.differences["base"]
    # A difference of means, not a mean of differences: the same but for rounding.
    assert (gain.value, gain.low, gain.high) == pytest.approx(
        bootstrap.paired_difference([1, 1, 1, 0, 1, 1], [1, 0, 1, 0, 1, 0], slabs)
    )


def test_text_is_aligned(results):
    lines = results.to_text().splitlines()
    assert lines[0].split() == ["task", "metric", "questions", "slabs", "base", "better"]
    column = lines[0].index("better")
    rows = [line for line in lines[2:9] if not line.startswith("─")]
    assert len(rows) == 6
    assert all(line[column - 1] == " " and line[column] in "01" for line in rows)
    assert rows[-1].startswith("overall")
    assert "0.83 [" in rows[-1]
    assert "better − base: +0.33 [" in lines[-1]
    assert not any(line != line.rstrip() for line in lines)


def test_markdown_is_a_table():
    systems = {"a|b": answered(BASE), "c": answered(BETTER)}
    lines = table.results(systems).to_markdown().splitlines()
    assert lines[0] == "| task | metric | questions | slabs | a\\|b | c |"
    assert lines[1] == "| --- | --- | ---: | ---: | ---: | ---: |"
    assert lines[5] == "| caption | exact match | 1 | 1 | 0.00 | 1.00 |"


def test_dict_is_json_with_every_number(results):
    loaded = json.loads(json.dumps(results.to_dict(), allow_nan=False))
    assert loaded["systems"] == ["base", "better"]
    brain = loaded["tasks"]["brain"]["iou"]
    assert (brain["questions"], brain["slabs"]) == (2, 2)
    assert brain["systems"]["base"]["value"] == pytest.approx(2 / 3)
    assert brain["differences"]["base"]["value"] == pytest.approx(1 / 3)
    assert loaded["tasks"]["caption"]["token_f1"]["systems"]["base"] == {
        "value": 0.5,
        "low": None,
        "high": None,
    }
    assert loaded["overall"]["exact_match"]["systems"]["better"]["value"] == pytest.approx(5 / 6)


def test_cut_questions_are_counted_and_told_of():
    cut = [dataclasses.replace(p, truncated=i < 2) for i, p in enumerate(answered(BETTER))]
    results = table.results({"base": answered(BASE), "better": cut})
    assert results.to_dict()["truncated"] == {"base": 0, "better": 2}
    said = "Questions longer than text_length, read without their end: better 2."
    assert said in results.to_text()
    assert said in results.to_markdown()


def test_no_word_of_cut_questions_where_there_are_none(results):
    assert results.to_dict()["truncated"] == {"base": 0, "better": 0}
    assert "text_length" not in results.to_text()


def test_without_questions_there_is_no_overall():
    results = table.results({"base": answered(BASE[6:], ASKED[6:])})
    assert results.overall is None
    assert results.to_dict()["overall"] is None
    assert "overall" not in results.to_text().lower()


def test_the_unscored_are_not_counted():
    asked = [*ASKED[:2], ("plane", "s9", "which plane?", "")]
    [row] = table.results({"base": answered(BASE[:3], asked)}).tasks
    assert (row.questions, row.groups) == (2, 1)
    assert math.isnan(row.estimates["base"].low)


def test_systems_must_answer_the_same_examples():
    with pytest.raises(ValueError, match="'q8'"):
        table.results({"a": answered(BASE), "b": answered(BETTER)[:-1]})
    with pytest.raises(ValueError, match="no system"):
        table.results({})


@dataclasses.dataclass(frozen=True)
class Made:
    """A record that is no `Prediction`."""

    id: str
    task: str
    scores: dict
    group: str = "s"
    kind: str = "labels"
    truncated: bool = False


def test_systems_may_leave_tasks_out_but_not_examples():
    def made(value, tasks):
        return [
            Made(f"{t}{i}", t, {"psnr": value, "dice/a": 1}, f"s{i}") for t in tasks for i in "12"
        ]

    systems = {"ceiling": made(30, "b"), "model": made(20, "ba")}
    words = table.Words("direction", "samples", "Cut")
    results = table.results(systems, order=("b", "a"), words=words)
    assert results.header == ("direction", "metric", "samples", "slabs", "ceiling", "model")
    # Tasks in the order asked for, metrics in the records' own.
    assert [(row.task, row.metric) for row in results.rows] == [
        ("b", "psnr"), ("b", "dice/a"), ("a", "psnr"), ("a", "dice/a")
    ]  # fmt: skip
    assert list(results.rows[2].estimates) == ["model"]
    assert results.rows[0].differences["ceiling"].value == -10
    assert results.rows[2].differences == {}
    lines = results.to_markdown().splitlines()
    assert lines[4] == "| a | PSNR (dB) | 2 | 2 | – | 20.00 [20.00, 20.00] |"
    assert "PSNR in dB" in results.note
    assert results.to_dict()["tasks"]["a"]["psnr"]["samples"] == 2
    assert results.of_task("a").systems == ("model",)
    with pytest.raises(ValueError, match="'a2'"):
        table.results({"a": made(1, "a"), "b": made(1, "a")[:1]})
