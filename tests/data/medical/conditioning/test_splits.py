"""Parts: published or made, and what training never shows of the others."""

import collections

import pytest

from medjax.data.medical.conditioning import splits, unseen
from medjax.data.medical.conditioning.settings import Settings
from medjax.data.medical.record import SPLITS
from medjax.errors import UserError

MADE = Settings(split="made", split_sizes=(0.8, 0.1, 0.1))


def parts(records):
    return {record.id: record.split for record in records}


def cases(record, count, images=2):
    return [
        record(f"c{case}i{image}", "a mass", patient=f"c{case}")
        for case in range(count)
        for image in range(images)
    ]


def test_published_parts_stay_and_are_counted(record):
    records = [
        record("a", "x", "y", patient="1", split="train", diagnosis="Glioma"),
        record("b", "x", patient="1", split="train", diagnosis="glioma."),
        record("c", "x", patient="2", split="test"),
        record("d", "x", split="validation"),
    ]
    kept, report = splits.step(records, Settings())
    assert kept == records
    assert report.warnings == ()
    assert report.figures["parts"] == {
        "train": {"patients": 1, "images": 2, "questions": 3, "diagnoses": 1},
        "validation": {"patients": 0, "images": 1, "questions": 1, "diagnoses": 0},
        "test": {"patients": 1, "images": 1, "questions": 1, "diagnoses": 0},
    }


def test_a_patient_in_two_published_parts_is_told(record):
    records = [
        record("a", patient="1", split="train"),
        record("b", patient="1", split="test"),
        record("c", patient="2", split="test"),
    ]
    kept, report = splits.step(records, Settings())
    assert kept == records
    assert report.figures["patients_in_several_parts"] == ["1"]
    assert report.warnings[0].startswith("1 patient in more than one part")


def test_images_without_a_published_part_follow_their_patient_or_go(record):
    records = [
        record("a", patient="1", split="train"),
        record("b", patient="1"),
        record("c", patient="2"),
        record("d"),
        record("e", patient="3", split="train"),
        record("f", patient="3", split="test"),
        record("g", patient="3"),
    ]
    kept, report = splits.step(records, Settings())
    assert parts(kept) == {"a": "train", "b": "train", "e": "train", "f": "test"}
    assert report.dropped == {"no published split": 3}
    assert report.unit == "images"
    assert report.changed == {"put where the patient’s other images are": 1}
    assert [case.record.id for case in report.cases] == ["c", "d", "g"]
    assert "4 images without a published split" in report.warnings[1]


def test_no_published_part_at_all_says_what_to_set(record):
    with pytest.raises(UserError, match=r"data\.conditioning\.split=made"):
        splits.step([record("a"), record("b")], Settings())
    with pytest.raises(UserError, match="image a: its split is 'dev'"):
        splits.step([record("a", split="dev")], Settings())
    assert splits.step([], Settings())[0] == []


def test_made_parts_keep_patients_together(record):
    records = cases(record, 50)
    kept, report = splits.step(records, MADE)
    of_patient = collections.defaultdict(set)
    for one in kept:
        of_patient[one.patient].add(one.split)
    assert all(len(found) == 1 for found in of_patient.values())
    patients = {part: report.figures["parts"][part]["patients"] for part in SPLITS}
    assert patients == {"train": 40, "validation": 5, "test": 5}
    assert not report.dropped
    assert not report.warnings


def test_made_parts_depend_on_seed_and_patients_alone(record):
    records = cases(record, 50)
    first = parts(splits.step(records, MADE)[0])
    assert parts(splits.step(records[::-1], MADE)[0]) == first
    other = Settings(split="made", split_seed=1)
    assert parts(splits.step(records, other)[0]) != first
    published = [record("x", patient="c0", split="test"), *records]
    assert parts(splits.step(published, MADE)[0])["x"] == first["c0i0"]


def test_further_cases_move_few(record):
    first = parts(splits.step(cases(record, 100), MADE)[0])
    more = parts(splits.step(cases(record, 110), MADE)[0])
    moved = {id for id in first if first[id] != more[id]}
    assert len(moved) <= 2 * 4  # of 100 cases of two images


def test_parts_may_be_numbers_of_patients(record):
    settings = Settings(split="made", split_sizes=(20, 5, 3))
    kept, report = splits.step(cases(record, 30), settings)
    patients = {part: report.figures["parts"][part]["patients"] for part in SPLITS}
    assert patients == {"train": 20, "validation": 5, "test": 3}
    assert report.dropped == {"beyond split_sizes": 4}
    assert len(kept) == 56
    assert "28 of 30 patients" in report.warnings[0]


@pytest.mark.parametrize(
    ("sizes", "count", "expected"),
    [
        ((0.8, 0.1, 0.1), 10, (8, 1, 1)),
        ((0.8, 0.1, 0.1), 3, (1, 1, 1)),
        ((1, 0, 0), 7, (7, 0, 0)),
        ((0.5, 0.0, 0.5), 4, (2, 0, 2)),
        ((600, 25, 25), 671, (600, 25, 25)),
    ],
)
def test_sizes(sizes, count, expected):
    assert tuple(splits.sizes(sizes, count).values()) == expected


@pytest.mark.parametrize(
    ("sizes", "count", "message"),
    [
        ((0.8, 0.2), 10, "three sizes"),
        ((0.8, 0.3, -0.1), 10, "three sizes"),
        ((0.8, 0.1, 0.2), 10, "shares that add up to 1"),
        ((600, 25, 25), 649, "there are 649 patients only"),
        ((0.8, 0.1, 0.1), 2, "2 patients are too few"),
    ],
)
def test_sizes_that_do_not_fit(sizes, count, message):
    with pytest.raises(UserError, match=message) as info:
        splits.sizes(sizes, count)
    assert "data.conditioning.split_sizes" in str(info.value)


def test_without_patients_one_image_is_one_part_and_that_is_told(record):
    records = [record(f"i{n}") for n in range(40)]
    # The same file once more, as a dataset that is split by question has it.
    records += [record(f"i{n}-test", image=records[n].image) for n in range(40)]
    kept, report = splits.step(records, MADE)
    found = parts(kept)
    assert all(found[f"i{n}"] == found[f"i{n}-test"] for n in range(40))
    assert len(set(found.values())) == 3
    assert report.warnings[0].startswith("80 images of no known patient, such as image i0")


def test_what_training_never_shows(record):
    records = [
        record("a", "x", split="train", diagnosis="Glioma", category="Tumour"),
        record("b", split="train", diagnosis="Cyst", category="Cyst"),  # asks nothing
        record("c", "x", split="validation", diagnosis="glioma (GBM)", category="Tumour"),
        record("d", "x", "y", split="test", diagnosis="Cyst", category="Tumour"),
        record("e", "x", split="test", diagnosis="Abscess", category="Infection"),
        record("f", "x", split="test", diagnosis="cyst.", category="Tumour"),
        record("g", "x", split="test"),
    ]
    marked, report = unseen.step(records, Settings())
    assert {one.id: one.facts.get("seen") for one in marked} == {
        "a": "seen", "b": "unseen", "c": "seen", "d": "unseen", "e": "unseen", "f": "unseen",
        "g": None,
    }  # fmt: skip
    assert report.changed == {"diagnosis seen": 2, "diagnosis unseen": 4}
    test = report.figures["diagnosis"]["test"]
    assert test["unseen"] == [
        {"diagnosis": "Cyst", "images": 2, "questions": 3},
        {"diagnosis": "Abscess", "images": 1, "questions": 1},
    ]
    assert (test["values"], test["unseen_values"], test["unseen_images"]) == (2, 2, 3)
    assert report.figures["diagnosis"]["train"] == {"values": 1}
    assert report.figures["diagnosis"]["validation"]["unseen"] == []
    infection = {"category": "Infection", "images": 1, "questions": 1}
    assert report.figures["category"]["test"]["unseen"] == [infection]
    assert [case.record.id for case in report.cases] == ["d", "e", "f"]


@pytest.mark.parametrize("settings", [MADE, Settings()])
def test_nothing_is_dealt_where_there_is_nothing(settings):
    kept, report = splits.step([], settings)
    assert kept == []
    assert report.figures["parts"]["train"]["images"] == 0
