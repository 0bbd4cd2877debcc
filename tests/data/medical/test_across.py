"""What one dataset trains on and another holds out, found in what was built."""

import json
import logging
import pathlib
import shutil

import pytest

from medjax import config as config_lib
from medjax.data import setup
from medjax.data.medical import across
from medjax.data.medical.conditioning.settings import Settings
from medjax.data.medical.source import MedicalSource
from medjax.errors import UserError
from medjax.pipelines.paligemma import run

RECIPE = pathlib.Path(__file__).parents[3] / "configs" / "medpix_lora.py"
CASE = "https://medpix.nlm.nih.gov/case?id=1"


@pytest.fixture(scope="module")
def of_medpix(built_medpix, tmp_path_factory):
    """A folder in VQA-RAD's form, whose training images are one of MedPix's test part and one of
    its training part, and its questions of both."""
    folder = tmp_path_factory.mktemp("rad") / "vqa_rad"
    images = folder / "VQA_RAD Image Folder"
    images.mkdir(parents=True)
    rows = []
    for split in ("test", "train"):
        source = _medpix(built_medpix, split)
        record = next(iter(source.records()))
        name = f"synpic{record.facts['synpic']}.jpg"
        shutil.copy(built_medpix.folder / "images" / f"{record.id}.png", images / name)
        rows.append(
            {
                "qid": len(rows), "phrase_type": "freeform", "qid_linked_id": "1",
                "image_case_url": CASE, "image_name": name, "image_organ": "HEAD",
                "question": "Is it a head?", "answer": "Yes", "answer_type": "CLOSED",
                "question_type": "PRES",
            }
        )  # fmt: skip
    (folder / "VQA_RAD Dataset Public.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture(scope="module")
def rad(of_medpix, built_medpix, tmp_path_factory):
    return MedicalSource(
        "vqa_rad", folder=of_medpix, data_dir=tmp_path_factory.mktemp("data"), split="train",
        settings=built_medpix.settings,
    )  # fmt: skip


def _medpix(built_medpix, split, **kwargs):
    return MedicalSource(
        "medpix2", folder=built_medpix.folder, data_dir=built_medpix.data_dir, split=split,
        settings=built_medpix.settings, **kwargs,
    )  # fmt: skip


def test_leaks_between_datasets_end_a_run(built_medpix, rad):
    test = _medpix(built_medpix, "test")
    wanted = next(iter(test.records()))
    named = rf"synpic\S+ \(vqa_rad train\) and {wanted.id} \(medpix2 test\)"
    synpic = rf"{named}: same synpic id, {wanted.facts['synpic']}"
    for leaks in ("error", "drop"):
        with pytest.raises(UserError, match=synpic) as raised:
            across.check([rad], [test], Settings(leaks=leaks))
        assert "near-duplicate, 0.0 of 64 bits differ" in str(raised.value)
        assert "data.conditioning.against" in str(raised.value)
    # Whatever of an image is held out, and wherever.
    asked = _medpix(built_medpix, "test", tasks=("diagnosis",))
    with pytest.raises(UserError, match=synpic):
        across.check([_medpix(built_medpix, "train"), rad], [object(), asked], Settings())


def test_leaks_between_datasets_are_warned_of(built_medpix, rad, caplog):
    test = _medpix(built_medpix, "test")
    with caplog.at_level(logging.WARNING):
        across.check([rad], [test], Settings(leaks="off"))
        assert not caplog.text
        across.check([rad], [test], Settings(leaks="warn"))
    assert "1 × same synpic id" in caplog.text


def test_what_is_no_leak(built_medpix, rad):
    train, test = _medpix(built_medpix, "train"), _medpix(built_medpix, "test")
    # Both are trained on; within a dataset its build has looked; nothing is trained on.
    across.check([rad, train], [], Settings())
    across.check([train], [test], Settings())
    across.check([], [test, rad], Settings())
    across.check([object()], [test], Settings())


def test_a_run_looks_before_it_trains_and_against_mends_it(built_medpix, of_medpix, tmp_path):
    config = config_lib.load(str(RECIPE), [])
    config.data.dir = str(tmp_path)
    conditioning = config.data.conditioning
    conditioning.leaks, conditioning.overlays, conditioning.templates = "drop", "keep", False
    for part in (config.data.train, config.data.validation, config.data.test):
        for spec in part.values():
            spec.folder = str(built_medpix.folder)
    config.data.train.cases.source = config.data.train.rehearsal.source = ""
    run._check_leaks(config, {"train": config})  # of one dataset
    spec = config.data.train.alphabet
    spec.source, spec.folder, spec.modes = "vqa_rad", str(of_medpix), ()
    with pytest.raises(UserError, match=r"\(vqa_rad train\) and \S+ \(medpix2 test\)"):
        run._check_leaks(config, {"train": config})
    # One setting for all, which names each dataset to itself, too.
    conditioning.against = f"medpix2={built_medpix.folder}", f"vqa_rad={of_medpix}"
    run._check_leaks(config, {"train": config})
    (source,) = (source for source, _ in setup.open_sources(config, "train").values())
    assert len(source) == 1
