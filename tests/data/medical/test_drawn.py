import collections
import hashlib
import json

import numpy as np
import pytest

from medjax.data.faults import FaultCounter
from medjax.data.medical import drawn
from medjax.data.medical.catalogue import dataset
from medjax.data.medical.drawn import heads
from medjax.data.medical.drawn.lesions import DIAGNOSES, LOBES, NORMAL, UNSEEN
from medjax.data.medical.drawn.plan import plan
from medjax.errors import UserError

MODALITIES = ("T1", "T2", "CT")


def test_the_same_arguments_give_the_same_bytes(drawn_medpix, tmp_path):
    drawn.write(tmp_path / "again", cases=4, seed=3)
    drawn.write(tmp_path / "third", cases=4, seed=3)
    first, again = (_hashes(tmp_path / name) for name in ("again", "third"))
    assert first == again
    assert set(first.values()).isdisjoint(
        value for name, value in _hashes(drawn_medpix).items() if name.startswith("images")
    )


def _hashes(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_files_have_the_form_of_the_real_ones(drawn_medpix):
    rows = json.loads((drawn_medpix / "Descriptions.json").read_text())
    types = [row["Type"] for row in rows]
    assert types == sorted(types)
    assert set(types) == {"CT", "MR"}
    assert set(rows[0]) == {
        "Type", "U_id", "image", "Description", "Location", "Location Category",
    }  # fmt: skip
    assert set(rows[0]["Description"]) == {
        "ACR Codes", "Age", "Caption", "Figure Part", "Modality", "Plane", "Sex",
    }  # fmt: skip
    cases = json.loads((drawn_medpix / "Case_topic.json").read_text())
    assert all({"U_id", "TAC", "MRI", "Case", "Topic"} == set(case) for case in cases)
    assert sum(len(case["TAC"]) + len(case["MRI"]) for case in cases) == len(rows)
    splits = drawn_medpix / "splitted_dataset"
    lists = json.loads((splits / "uid_list.json").read_text())
    assert list(lists) == ["train", "train_1", "train_2", "dev", "test"]
    assert sorted(lists["train"]) == sorted(lists["train_1"] + lists["train_2"])
    for part, names in lists.items():
        lines = (splits / f"data_{part}.jsonl").read_text().splitlines()
        # Unlike in Case_topic.json, what is not given is null.
        assert [json.loads(line)["U_id"] for line in lines] == names
        assert all(json.loads(line)["Case"]["Media"] is None for line in lines)
        images = (splits / f"descriptions_{part}.jsonl").read_text().splitlines()
        assert {json.loads(line)["U_id"] for line in images} == set(names)
    sizes = [path.stat().st_size for path in (drawn_medpix / "images").iterdir()]
    assert len(sizes) == len(rows)


def test_many_cases_have_the_real_proportions():
    cases = plan(400, 0)
    images = [image for case in cases for image in case.images]
    parts = collections.Counter(case.part for case in cases)
    assert (parts["dev"], parts["test"]) == (40, 41)
    quirks = collections.Counter(quirk for image in images for quirk in image.quirks)
    assert quirks["rgba"] / len(images) == pytest.approx(288 / 2050, abs=1e-3)
    assert quirks["placeholder_caption"] / len(images) == pytest.approx(21 / 2050, abs=1e-3)
    assert quirks["city"] == 1
    shared = sum(len(case.images) for case in cases if case.shared_caption and case.images[1:])
    assert shared / len(images) == pytest.approx(965 / 2050, abs=0.1)
    assert {len(case.images) for case in cases} == {1, 2, 3, 4}
    assert all(96 <= image.height <= 512 and 112 <= image.width <= 1024 for image in images)
    assert len({case.id for case in cases}) == 400
    assert len({image.id for image in images}) == len(images)
    assert all(
        len({(image.modality, image.plane) for image in case.images}) == len(case.images)
        for case in cases
    )


def test_one_diagnosis_is_never_seen_in_training():
    for count in (4, 30):
        diagnoses = collections.defaultdict(set)
        for case in plan(count, 0):
            diagnoses[case.part].add(case.diagnosis)
        assert UNSEEN in diagnoses["test"]
        assert UNSEEN not in diagnoses["train"] | diagnoses["dev"]
    assert diagnoses["train"] == set(DIAGNOSES)


def test_too_few_cases_are_refused(tmp_path):
    with pytest.raises(UserError, match="draw at least 4"):
        drawn.write(tmp_path, cases=3)


@pytest.fixture(scope="module")
def cases():
    """The first case of each diagnosis with a lesion."""
    return {case.diagnosis: case for case in reversed(plan(60, 0)) if case.diagnosis != NORMAL}


@pytest.mark.parametrize("diagnosis", [*(d for d in DIAGNOSES if d != NORMAL), UNSEEN])
def test_a_lesion_changes_every_image_of_its_case_and_on_its_side_alone(cases, diagnosis):
    case = cases[diagnosis]
    for image in case.images:
        with_lesion, without = (
            heads.head_slice(image.plane, image.millimetres, image.modality, d, case.lesion, 1.0)
            for d in (diagnosis, NORMAL)
        )
        changed = np.abs(with_lesion - without)
        assert (changed > 0.1).sum() > 60  # square millimetres
        if image.plane == "sagittal" or not case.side:
            continue
        half = changed.shape[1] // 2
        image_left, image_right = changed[:, :half].sum(), changed[:, half:].sum()
        # The patient's right is on the image's left.
        far, near = sorted([image_left, image_right])
        assert near == (image_left if case.side == "right" else image_right)
        assert near > 2 * far


def test_lobes_lie_where_the_template_has_them():
    for name, direction in LOBES.items():
        unit = np.array(direction) / np.linalg.norm(direction)
        assert 55 < heads.surface(unit) < 105, name
        assert heads.in_brain(0.8 * heads.surface(unit) * unit), name


def test_every_image_has_a_watermark_and_a_footer(drawn_medpix):
    for record in dataset("medpix2").read(drawn_medpix, FaultCounter("error")):
        pixels = record.image.pixels()[..., 0]
        height, width = pixels.shape
        top = pixels[: max(8, height // 14)]
        corners = top[:, : width // 5], top[:, -width // 5 :]
        assert any((corner > 60).any() for corner in corners)
        assert (pixels[-max(7, height // 30) :, : width // 2] > 150).any()
