"""Comparisons: the same questions for all, differences from one system, figures beside them."""

import dataclasses
import json

import numpy as np
import pytest

from medjax.data.example import SOURCE, Example
from medjax.errors import UserError
from medjax.evaluation import bootstrap
from medjax.evaluation.comparison.compare import compare
from medjax.evaluation.comparison.published import of_systems, read_published
from medjax.evaluation.comparison.systems import System, gather
from medjax.evaluation.parquet import write_parquet
from medjax.evaluation.predictions import from_example, write_jsonl

TASKS = ("plane", "modality", "caption")


def answers(seed, count=60, right=0.5):
    """Answers of a system to questions about drawn data, right with a probability."""
    random = np.random.default_rng(seed)
    examples = [
        Example(
            f"q{i}", None, "which?", "axial view", "", {"task": TASKS[i % 3], "patient": i // 4}
        )
        for i in range(count)
    ]
    said = ["axial view" if random.random() < right else "axial" for _ in examples]
    return tuple(
        from_example(e, text, group_key="patient") for e, text in zip(examples, said, strict=True)
    )


@pytest.fixture
def systems():
    return [
        System("first", answers(0), "mit", 3e9, groups="patients"),
        System("second", answers(1, right=0.9)),
    ]


def column(comparison, task, metric):
    [section] = [section for section in comparison.sections if section.task == task]
    [found] = [column for column in section.columns if column.metric == metric]
    return found


def test_the_same_questions_of_runs_with_one_and_with_several_sources(systems):
    def named(source, predictions):
        return [
            dataclasses.replace(p, id=f"{source}/{p.id}", extra={**p.extra, SOURCE: source})
            for p in predictions
        ]

    first, second = systems
    several = dataclasses.replace(
        second,
        predictions=(
            *named("medpix", second.predictions),
            *named("slake", [dataclasses.replace(second.predictions[0], id="other")]),
            # An id of two sources names no question.
            *named("slake", [second.predictions[3]]),
        ),
    )
    compared = compare([first, several])
    assert compared.questions == 59
    assert "60 by first, 62 by second" in compared.notes[0]
    # Where all were asked the same sources, ids are compared as they are.
    assert compare([several, dataclasses.replace(several, name="third")]).questions == 62


def test_estimates_and_paired_differences(systems):
    compared = compare(systems)
    assert (compared.reference, compared.groups, compared.questions) == ("first", "patients", 60)
    assert compared.notes == ()
    assert [section.task for section in compared.sections] == [
        "all questions", "modality", "plane", "caption",
    ]  # fmt: skip
    found = column(compared, "all questions", "exact_match")
    first, second = (
        [p.scores["exact_match"] for p in system.predictions if p.kind == "question"]
        for system in systems
    )
    groups = [p.group for p in systems[0].predictions if p.kind == "question"]
    assert found.questions == 40
    assert found.cells[0].difference is None
    estimate, difference = found.cells[1].estimate, found.cells[1].difference
    assert estimate.value == pytest.approx(np.mean(second))
    assert (estimate.low, estimate.high) == bootstrap.interval(second, groups)
    wanted = bootstrap.paired_difference(second, first, groups)
    assert (difference.value, difference.low, difference.high) == pytest.approx(wanted)
    assert found.cells[1].differs == (wanted[1] > 0)
    turned = compare(systems, reference="second")
    against = column(turned, "all questions", "exact_match").cells[0].difference
    assert (against.value, against.low, against.high) == pytest.approx(
        [-wanted[0], -wanted[2], -wanted[1]]
    )


def test_a_clear_difference_is_marked_and_none_is_not(systems):
    same = dataclasses.replace(systems[0], name="same")
    better = System("better", answers(2, right=1.0))
    found = column(compare([*systems, same, better]), "all questions", "exact_match")
    assert not found.cells[2].differs
    assert found.cells[2].difference.value == 0.0
    assert found.cells[3].differs


def test_only_what_all_answered_is_compared(systems):
    few = System("few", systems[1].predictions[10:])
    compared = compare([systems[0], few])
    assert compared.questions == 50
    assert column(compared, "plane", "exact_match").questions == 16
    [note] = compared.notes
    assert "the 50 questions that all systems answered" in note
    assert "60 by first, 50 by few" in note
    alone = System("few", tuple(dataclasses.replace(p, id="x" + p.id) for p in few.predictions))
    with pytest.raises(UserError, match=r"no question that all systems answered.*first: 'q0'"):
        compare([systems[0], alone])


def test_other_true_answers_and_other_groups_are_told_of(systems):
    changed = list(systems[1].predictions)
    changed[3] = dataclasses.replace(changed[3], truth="coronal")
    changed[4] = dataclasses.replace(changed[4], group="another", truth=" axial  view")
    compared = compare([systems[0], System("changed", tuple(changed))])
    assert compared.questions == 59
    other, groups = compared.notes
    assert "1 of them have another true answer for some systems, such as 'q3'" in other
    assert "changed (1 questions)" in groups


def test_a_metric_that_a_system_lacks(systems):
    more = tuple(
        dataclasses.replace(p, scores={**p.scores, "rouge": 0.5}) for p in systems[1].predictions
    )
    third = System("third", more)
    found = column(compare([*systems, third]), "plane", "rouge")
    assert list(found.cells) == [2]
    assert found.cells[2].difference is None  # the reference lacks it, too
    both = compare([systems[0], dataclasses.replace(systems[1], predictions=more), third])
    found = column(both, "plane", "rouge")
    assert [cell.difference for cell in found.cells.values()] == [None, None]
    assert len(column(both, "plane", "exact_match").cells) == 3


def test_published_figures_stand_beside(systems, tmp_path):
    path = tmp_path / "published.json"
    interval = {"value": 0.5, "low": 0.4, "high": 0.6}
    path.write_text(json.dumps([
        {"system": "A", "source": "paper A", "parameters": 7e9, "Exact-Match": 0.7, "CIDEr": 1.1},
        {"system": "B", "source": "paper B", "task": "plane", "exact_match": interval},
        {"system": "B", "source": "paper C", "task": "volume", "Dice": 0.8, "other": None},
    ]))  # fmt: skip
    compared = compare(systems, read_published(path))
    assert [line.published for line in compared.lines] == [False, False, True, True, True]
    found = column(compared, "all questions", "exact_match")
    assert (found.cells[2].estimate.value, found.cells[2].difference) == (0.7, None)
    assert np.isnan(found.cells[2].estimate.low)
    assert column(compared, "plane", "exact_match").cells[3].estimate.high == 0.6
    assert list(column(compared, "all questions", "CIDEr").cells) == [2]
    assert column(compared, "volume", "Dice").questions == 0
    report = json.loads(json.dumps(compared.to_dict(), allow_nan=False))
    of_plane = next(s for s in report["sections"] if s["task"] == "plane")
    rows = of_plane["metrics"]["exact_match"]["systems"]
    assert [row["name"] for row in rows] == ["first", "second", "B"]
    assert "difference" in rows[1]
    assert rows[1]["difference"]["leaves_out_0"] in (True, False)
    assert rows[2]["low"] == 0.4


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, "not a list"),
        (["A"], "entry 1: not an object"),
        ([{"system": "A", "exact_match": 0.5}], "entry 1: source is missing"),
        ([{"system": "A", "source": "B"}], "entry 1: no metric"),
        ([{"system": "A", "source": "B", "x": "0.5"}], "entry 1, x: value must be a number"),
        ([{"system": "A", "source": "B", "x": {"mean": 1}}], "an object must have value"),
        ([{"system": "A", "source": "B", "x": {"value": 1, "low": 0}}], "both low and high"),
        ([{"system": "A", "source": "B", "parameters": "7B", "x": 1}], "such as 2.9e9, not '7B'"),
    ],
)
def test_a_damaged_file_of_figures_is_told_of(entries, message, tmp_path):
    path = tmp_path / "published.json"
    path.write_text(json.dumps(entries))
    with pytest.raises(UserError, match=message):
        read_published(path)
    path.write_text("[")
    with pytest.raises(UserError, match="not JSON"):
        read_published(path)
    with pytest.raises(UserError, match="cannot read"):
        read_published(tmp_path / "missing.json")


def test_per_cent_are_told_of(systems, tmp_path):
    path = tmp_path / "published.json"
    path.write_text(json.dumps([{"system": "A", "source": "B", "exact match": 84.2}]))
    with pytest.raises(UserError, match=r"84.2, but goes up to 1; write a fraction"):
        compare(systems, read_published(path))


def test_names_that_are_not_there(systems):
    with pytest.raises(UserError, match="no system is named 'x': first, second"):
        compare(systems, reference="x")
    with pytest.raises(UserError, match="no task is named 'x': all questions, modality"):
        compare(systems, tasks=["x"])
    with pytest.raises(UserError, match="no metric is named 'x': exact_match, token_f1"):
        compare(systems, metrics=["x"])


def test_what_is_asked_for_alone(systems):
    assert [s.task for s in compare(systems, tasks=["plane"]).sections] == ["plane"]
    [captions] = compare(systems, metrics=["Token F1"]).sections
    assert [column.metric for column in captions.columns] == ["token_f1"]


def test_folders(tmp_path, systems):
    first, second = (system.predictions for system in systems)
    baseline = answers(3, right=0.1)
    for run, of_run in (("a", first), ("b", second)):
        folder = tmp_path / run / "evaluation"
        folder.mkdir(parents=True)
        write_parquet(folder / "predictions.parquet", {"majority answer": baseline, "lora": of_run})
        (folder / "results.json").write_text(json.dumps({"groups": "patients"}))
    other = tmp_path / "scored"
    other.mkdir()
    write_jsonl(other / "predictions.jsonl", second)
    about = {"name": "VLM", "licence": "mit", "parameters": 3, "source": "there"}
    about["published"] = {"exact_match": 0.25, "BLEU-4": None}
    (other / "system.json").write_text(json.dumps(about))
    found = gather([tmp_path / "a", tmp_path / "b" / "evaluation", other, f"again={other}"])
    # The same baseline twice is one.
    assert [s.name for s in found] == ["majority answer", "a", "b", "VLM", "again"]
    assert (found[3].licence, found[3].parameters, found[3].source) == ("mit", 3.0, "there")
    [figures] = of_systems(found[:-1])
    assert (figures.name, figures.source, figures.parameters) == ("VLM", "there", 3.0)
    assert list(figures.values) == ["exact_match"]  # what is not known is passed over
    assert found[1].groups == "patients"
    assert found[1].predictions == tuple(
        dataclasses.replace(p, extra={**p.extra, "patient": str(p.extra["patient"])}) for p in first
    )
    write_parquet(
        tmp_path / "b" / "evaluation" / "predictions.parquet",
        {"majority answer": first, "lora": second},
    )
    named = [system.name for system in gather([tmp_path / "a", tmp_path / "b"])]
    assert named == ["majority answer", "a", "majority answer (b)", "b"]


def test_folders_that_hold_nothing(tmp_path):
    with pytest.raises(UserError, match=r"no predictions\.parquet and no predictions\.jsonl"):
        gather([tmp_path])
    (tmp_path / "predictions.jsonl").write_text("")
    with pytest.raises(UserError, match="nothing was answered"):
        gather([tmp_path])
    write_jsonl(tmp_path / "predictions.jsonl", answers(0, 3))
    (tmp_path / "system.json").write_text('{"parameters": "3B"}')
    with pytest.raises(UserError, match=r"system\.json: parameters must be their number"):
        gather([tmp_path])
    (tmp_path / "system.json").write_text('{"published": {"exact_match": "high"}}')
    with pytest.raises(UserError, match="published exact_match: value must be a number"):
        of_systems(gather([tmp_path]))
