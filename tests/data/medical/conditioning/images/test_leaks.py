"""Planted leaks are found, and a clean set passes."""

import dataclasses
import pickle

import numpy as np
import pytest
from PIL import Image

from medjax.data.medical import catalogue
from medjax.data.medical.conditioning import leaks
from medjax.data.medical.conditioning.settings import Settings
from medjax.data.medical.dataset import Dataset
from medjax.errors import UserError

SAID = "Drawn data: a round lesion to the left of the midline, bright."


def kinds(found):
    return sorted({(leak.kind, leak.train.id, leak.held_out.id) for leak in found})


def check(records, **settings):
    return leaks.step(records, Settings(leaks="warn", **settings))


def found_in(report):
    return report.figures["pairs by kind"]


def test_a_clean_set_passes(clean_records):
    done, report = leaks.step(clean_records, Settings(leaks="error"))
    assert [record.id for record in done] == [record.id for record in clean_records]
    assert all(record.hashes for record in done)
    assert not report.warnings
    assert not report.cases
    assert found_in(report) == {}


def _half(pixels):
    return np.asarray(Image.fromarray(pixels).resize((pixels.shape[1] // 2, pixels.shape[0] // 2)))


COPIES = {
    "encoded anew": ("jpg", lambda pixels: pixels),
    "resized": ("png", _half),
    "windowed": ("png", lambda pixels: np.clip(pixels * 0.7 + 40, 0, 255).astype(np.uint8)),
    "all of it": ("jpg", lambda pixels: np.clip(_half(pixels) * 1.1, 0, 255).astype(np.uint8)),
}


@pytest.mark.parametrize("how", COPIES)
def test_a_copy(clean_records, folder, anatomy, how):
    form, change = COPIES[how]
    copy = folder.record("copy", change(anatomy[0]), split="test", form=form)
    _, report = check([*clean_records, copy])
    assert found_in(report) == {"near-duplicate": 1}
    (case,) = report.cases
    assert (case.record.id, case.other.id, case.why) == ("scan00", "copy", "near-duplicate")
    assert case.text.startswith("train and test: ")


def test_a_patient_in_two_parts(clean_records, folder, anatomy):
    """Two images of training and two of validation: each is in a pair."""
    again = [
        folder.record(f"again{i}", anatomy[20 + i], patient="case 1", split=split)
        for i, split in enumerate(("train", "train", "validation", "validation"))
    ]
    _, report = check([*clean_records, *again])
    assert found_in(report) == {"same patient": 3}
    assert {id for case in report.cases for id in (case.record.id, case.other.id)} == {
        "again0", "again1", "again2", "again3",
    }  # fmt: skip
    _, report = check([*clean_records, *again[:2]])  # in one part it is no leak
    assert found_in(report) == {}


def test_captions(clean_records, folder, anatomy):
    def held_out(caption, name="held out"):
        return folder.record(name, anatomy[20], split="test", caption=caption)

    said = folder.record("said", anatomy[21], caption=SAID)
    _, report = check([*clean_records, said, held_out(SAID.upper().replace(" a ", "  a\n"))])
    assert found_in(report) == {"same caption": 1}
    for nothing in ("Axial slice.", "Replace this - DESCRIPTION of the image, or of what it shows"):
        both = [folder.record("said", anatomy[21], caption=nothing), held_out(nothing)]
        assert found_in(check([*clean_records, *both])[1]) == {}
    # What six patients' images are said to show is no mark of one of them.
    common = [dataclasses.replace(r, questions=said.questions) for r in clean_records]
    assert found_in(check(common)[1]) == {}
    fact = dataclasses.replace(said, questions=(), facts={"caption": SAID})
    assert found_in(check([*clean_records, fact, held_out(SAID)])[1]) == {"same caption": 1}


def test_an_image_that_two_records_share(clean_records):
    twice = dataclasses.replace(clean_records[0], id="twice", patient="another", split="test")
    _, report = check([*clean_records, twice])
    assert found_in(report)["same image"] == 1


@pytest.fixture
def vqa_rad(monkeypatch, folder, anatomy):
    """Another dataset, with an image of the first by its number, a copy, and one of its own."""
    (folder.path / "vqa_rad").mkdir()
    others = [
        folder.record("vqa_rad/synpic77", anatomy[20], split="test", patient="scan01"),
        folder.record("vqa_rad/copy", anatomy[0], split="train", form="jpg"),
        folder.record("vqa_rad/own", anatomy[22], split="test"),
        folder.record("vqa_rad/copy2", anatomy[2], split="train"),
    ]
    dataset = Dataset("vqa_rad", "", "", "", "", lambda path, counter: iter(others))
    monkeypatch.setattr(catalogue, "dataset", lambda name: {"vqa_rad": dataset}[name])
    return f"vqa_rad={folder.path / 'vqa_rad'}"


@pytest.fixture
def leaking(clean_records):
    """Training has an image of the other's test part, validation one of its training part."""
    records = list(clean_records)
    records[1] = dataclasses.replace(records[1], facts={"synpic": "77"})
    return records


def test_another_dataset(leaking, vqa_rad):
    """Its training part may have what is in this one's; patients' ids mean nothing across."""
    _, report = check(leaking, against=(vqa_rad,), hash_distance=2)
    assert found_in(report) == {"same synpic id": 1, "near-duplicate": 1}
    assert report.figures["pairs by parts"] == {
        "train – vqa_rad test": {"same synpic id": 1},
        "vqa_rad train – validation": {"near-duplicate": 1},
    }


def test_error_says_what_to_do(leaking, vqa_rad):
    settings = Settings(leaks="error", against=(vqa_rad,))
    with pytest.raises(leaks.LeaksFound) as error:
        leaks.step(leaking, settings)
    text = str(error.value)
    assert "2 pairs of images: 1 × same synpic id, 1 × near-duplicate" in text
    for said in ("scan01.png (train)", "synpic77.png (vqa_rad test)", "leaks=drop", "leak_check"):
        assert said in text
    assert len(error.value.report.cases) == len(error.value.leaks) == 2
    again = pickle.loads(pickle.dumps(error.value))
    assert (str(again), again.leaks) == (text, error.value.leaks)


def test_drop_takes_images_out_of_training(leaking, vqa_rad, folder, anatomy):
    copies = [
        folder.record("copy of a test image", anatomy[3], form="jpg"),
        folder.record("copy of training", anatomy[4], split="validation", form="jpg"),
    ]
    settings = Settings(leaks="drop", against=(vqa_rad,))
    done, report = leaks.step([*leaking, *copies], settings)
    gone = {"copy of a test image", "scan01", "scan04"}
    assert [r.id for r in done] == [r.id for r in (*leaking, *copies) if r.id not in gone]
    assert report.unit == "images"
    assert report.dropped == {
        "near-duplicate in test": 1,
        "near-duplicate in validation": 1,
        "same synpic id in vqa_rad test": 1,
    }
    (warning,) = report.warnings
    assert "1 held-out images are in vqa_rad train" in warning
    assert found_in(leaks.step(done, Settings(leaks="error"))[1]) == {}


def test_warn_lists_them_the_same_every_time(leaking, vqa_rad):
    settings = Settings(leaks="warn", against=(vqa_rad,))
    first, second = (leaks.step(leaking, settings) for _ in range(2))
    assert first == second
    assert [record.id for record in first[0]] == [record.id for record in leaking]
    assert "1 × same synpic id" in first[1].warnings[0]
    assert "scan01 (train) – vqa_rad/synpic77 (vqa_rad test)" in first[1].figures["pairs"][0]


@pytest.mark.parametrize("text", ["vqa_rad", "vqa_rad=", "nothing=/tmp", "vqa_rad=/no/such/place"])
def test_against_what(clean_records, text):
    with pytest.raises(UserError, match="against is"):
        check(clean_records, against=(text,))


def test_a_shared_file_is_named_without_its_folder(folder, anatomy):
    train = folder.record("scan", anatomy[0])
    tested = dataclasses.replace(train, id="scan again", split="test")
    found = leaks.find([train], [tested])
    assert ("same image", "scan.png") in [(leak.kind, leak.detail) for leak in found]
