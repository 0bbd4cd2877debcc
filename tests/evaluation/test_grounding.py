"""Asked again without the image and with another's: which one, and what is said of the scores."""

import collections
import dataclasses
import json

import numpy as np
import pytest

from medjax.data.example import Example
from medjax.evaluation import bootstrap, grounding, pages, run, table
from medjax.evaluation.predictions import from_example


def source(patients, questions=2):
    """Examples of images, `patients` naming each image's; pixels are the image's number."""
    return [
        Example(
            f"q{i}.{j}", np.full((3, 3, 3), i, np.uint8), "which plane?", "axial", f"image {i}",
            {"patient": patient, "task": "plane"},
        )
        for i, patient in enumerate(patients)
        for j in range(questions)
    ]  # fmt: skip


def swaps(examples, **kwargs) -> dict[str, str]:
    """By image key, that of the image shown instead."""
    places = grounding.derangement(examples, **kwargs)
    return {key: examples[place].image_key for key, place in places.items()}


@pytest.mark.parametrize(
    "patients", ["abc", "aabbcc", "aaabbc", "aabbccddeeffff", "abcdefghijkabcabc", ["", "", ""]]
)
def test_another_image_of_another_patient(patients):
    examples = source(patients)
    other = swaps(examples)
    of = {e.image_key: e.extra["patient"] or e.image_key for e in examples}
    assert sorted(other) == sorted(other.values()) == sorted(of)  # a permutation
    assert all(of[key] != of[shown] for key, shown in other.items())
    assert swaps(examples) == other
    # A question's place in the source plays no part, only the seed does.
    assert swaps(examples[::-1]) == other


def test_the_seed_says_which():
    examples = source(range(20))
    assert swaps(examples) != swaps(examples, seed=1)


def test_of_another_patient_as_far_as_there_are_some():
    examples = source("aaaaab")
    other = swaps(examples)
    assert all(key != shown for key, shown in other.items())
    of = {e.image_key: e.extra["patient"] for e in examples}
    # The only image of b is shown once, and replaced once: four of a's must be shown for a's.
    assert sum(of[key] == of[shown] for key, shown in other.items()) == 4
    assert all(key != shown for key, shown in swaps(source("aaa")).items())
    assert grounding.derangement(source("a")) is None


def test_the_groups_key_says_whose_an_image_is():
    examples = source("abcdefgh")
    examples = [
        dataclasses.replace(e, extra={**e.extra, "slab": int(e.image_key[6:]) // 2})
        for e in examples
    ]
    other = swaps(examples, group="slab")
    assert all(int(key[6:]) // 2 != int(shown[6:]) // 2 for key, shown in other.items())


def test_all_questions_about_an_image_get_the_same_other():
    examples = source("abc", questions=3)
    shuffled = grounding.Shuffled(examples, grounding.derangement(examples))
    assert len(shuffled) == len(examples)
    shown = collections.defaultdict(set)
    for i, example in enumerate(examples):
        other = shuffled[i]
        assert (other.id, other.prefix, other.extra) == (example.id, example.prefix, example.extra)
        assert other.image_key == f"image {other.image[0, 0, 0]}" != example.image_key
        shown[example.image_key].add(other.image_key)
    assert all(len(keys) == 1 for keys in shown.values())


ASKED = [*("plane",) * 4, *("caption",) * 2, "level"]
TRUTHS = ["axial", "axial", "coronal", "coronal", "a b", "a b", "top"]
SAID = {
    "majority answer": ["axial", "axial", "axial", "axial", "a", "a", "low"],
    "lora, blank image": ["axial", "coronal", "coronal", "axial", "a b", "c", "low"],
    "lora, shuffled images": ["axial", "axial", "coronal", "coronal", "a b", "a b", "top"],
    "lora": ["axial", "axial", "coronal", "coronal", "a b", "a b", "low"],
}


@pytest.fixture
def systems():
    def answered(said):
        return [
            from_example(
                Example(
                    f"q{i}", np.zeros((2, 2, 3), np.uint8),
                    "caption en" if task == "caption" else f"which {task}?", truth, f"i{i}",
                    {"task": task, "patient": f"p{i % 3}"},
                ),
                text,
                group_key="patient",
            )
            for i, (task, truth, text) in enumerate(zip(ASKED, TRUTHS, said, strict=True))
        ]  # fmt: skip

    return {name: answered(said) for name, said in SAID.items()}


BLANK, SHUFFLED = "blank image / score", "shuffled images / score"


def test_the_share_that_survives(systems):
    shares = grounding.shares(systems, "lora", groups="patients")
    rows = {row.task: row for row in shares.rows}
    assert list(rows) == ["level", "plane", "caption", "overall"]
    values = {
        task: {name: pytest.approx(e.value) for name, e in row.estimates.items()}
        for task, row in rows.items()
    }
    above = ", above majority"
    # A score of 0 has no share, and what is not above the majority answer none above it.
    assert values["level"] == {"score": 0.0}
    assert values["plane"] == {
        "score": 1.0, BLANK: 0.5, SHUFFLED: 1.0, BLANK + above: 0.0, SHUFFLED + above: 1.0,
    }  # fmt: skip
    majority = 2 / 3  # token F1 of "a" for "a b"
    assert values["caption"][BLANK] == 0.5
    assert values["caption"][BLANK + above] == (0.5 - majority) / (1 - majority)
    assert values["overall"][BLANK] == 0.5 / 1.0
    assert (rows["plane"].metric, rows["caption"].metric) == ("exact_match", "token_f1")
    assert (rows["plane"].questions, rows["plane"].groups) == (4, 3)


def test_the_interval_is_of_both_scores_together(systems):
    shares = grounding.shares(systems, "lora", groups="patients")
    plane = next(row for row in shares.rows if row.task == "plane")
    found = plane.estimates[BLANK]
    patients = ["p0", "p1", "p2", "p0"]
    wanted = bootstrap.ratio([1, 0, 1, 0], [1, 1, 1, 1], patients)
    assert (found.value, found.low, found.high) == wanted
    assert found.low < found.value < found.high


def test_without_checks_or_majority(systems):
    assert grounding.shares({"lora": systems["lora"]}, "lora") is None
    del systems["majority answer"], systems["lora, shuffled images"]
    shares = grounding.shares(systems, "lora")
    assert shares.systems == ("score", BLANK)
    assert "majority" not in shares.note


def test_it_stands_below_the_results(systems, tmp_path):
    source = [
        Example(p.id, np.zeros((8, 8, 3), np.uint8), p.question, p.truth, p.image_key)
        for p in systems["lora"]
    ]
    results = run.write(tmp_path, systems, source, "title", "patient")
    note = "the score with that image / the score with the true image: 1.00 means that the image"
    for text in (results.to_text(), (tmp_path / "results.md").read_text()):
        assert text.index("Mean score, 0 to 1") < text.index("rounding") < text.index(note)
    assert (
        f"| plane | exact match | 4 | 3 | 1.00 [1.00, 1.00] | {0.5:.2f} ["
        in (tmp_path / "results.md").read_text()
    )
    data = json.loads((tmp_path / "results.json").read_text())["grounding"]
    assert data["tasks"]["plane"]["exact_match"]["systems"][BLANK]["value"] == 0.5
    assert data["tasks"]["level"]["exact_match"]["systems"].keys() == {"score"}
    assert (data["model"], note in data["note"]) == ("lora", True)
    page = (tmp_path / "predictions.html").read_text()
    assert "<h2>Grounding</h2>" in page
    assert BLANK in page
    # The model itself is the last system, whose predictions are kept.
    kept = (tmp_path / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["generated"] for line in kept] == SAID["lora"]


def test_whiskers_stay_on_their_axis(systems):
    """A share may be above 1, or below 0 above the majority answer."""
    row = table.Row("plane", "exact_match", 2, 2, {"share": table.Estimate(1.5, -0.5, 3.0)}, {})
    shares = grounding.Shares(("share",), (row,), None, 0.95, "images", {}, model="lora")
    page = pages.results_table(shares)
    assert 'class="range" d="M0.0 4H100.0"' in page
    assert 'class="dot" d="M100.0 4h0"' in page
