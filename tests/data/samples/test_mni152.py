"""Slices as samples, against the volumes that they are cut from."""

import os
import pickle
from pathlib import Path

import nibabel
import nilearn
import numpy as np
import pytest

from medjax.data.samples import Box, open_samples
from medjax.data.sources import open_source
from medjax.errors import UserError
from medjax.modalities.table import Modality

GRID = {"image_size": 32, "patch_size": 8}
MODALITIES = (
    Modality("tok_t1", "image_tokens", 64, content="image", source="t1", **GRID),
    Modality("tissue", "image_tokens", 64, content="labels", **GRID),
    Modality("caption", "sequence", 900, max_length=32, content="text"),
    Modality("det", "sequence", 900, max_length=32, content="boxes"),
)  # fmt: skip
NAMES = ("t1", "tissue", "caption", "det")


def _open(names=NAMES, split="test", name="mni152"):
    data_dir = os.environ["MEDJAX_DATA"]
    return open_samples(name, split=split, names=names, modalities=MODALITIES, data_dir=data_dir)


@pytest.fixture(scope="module")
def samples():
    return _open()


@pytest.fixture(scope="module")
def volumes():
    folder = Path(nilearn.__file__).parent / "datasets" / "data"
    names = ("t1", "gm", "wm")
    files = [folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz" for name in names]
    return {n: np.asarray(nibabel.load(f).dataobj) for n, f in zip(names, files, strict=True)}


def test_values_are_cut_from_the_volumes(samples, volumes):
    assert samples.names == NAMES
    assert len({sample.id for sample in samples}) == len(samples)
    levels = set()
    for sample in samples:
        plane, index = sample.extra["plane"], sample.extra["slice"]
        axis = ("sagittal", "coronal", "axial").index(plane)
        cut = [np.moveaxis(volumes[name], axis, 0)[index] for name in ("t1", "gm", "wm")]
        t1, gm, wm = (np.rot90(part)[:, ::-1].astype(int) for part in cut)
        np.testing.assert_array_equal(sample.value("t1"), t1[..., None])
        tissue = sample.value("tissue")
        assert tissue.dtype == np.uint8
        np.testing.assert_array_equal(tissue == 1, gm > 127)
        np.testing.assert_array_equal(tissue == 2, wm > 127)
        assert sample.value("caption").startswith(f"{plane} slice, ")
        regions = {"brain": gm + wm > 127, "white matter": wm > 127}
        boxes = sample.value("det")
        assert [box.label for box in boxes] == [n for n, r in regions.items() if r.mean() >= 0.005]
        for box in boxes:
            y, x = np.nonzero(regions[box.label])
            parts = np.array([y.min(), x.min(), y.max() + 1, x.max() + 1]) / (t1.shape * 2)
            np.testing.assert_allclose(box[1:], parts, atol=1e-6)
        assert sample.extra["level"] == int(sample.extra["depth"] * 5)
        levels.add(sample.extra["level"])
    assert levels == set(range(5))


def test_captions_and_slabs_are_those_of_the_questions(samples):
    asked = open_source(
        "mni152_vqa", split="test", tasks=("caption",), data_dir=os.environ["MEDJAX_DATA"]
    )
    assert len(asked) == len(samples)
    for example, sample in zip(asked, samples, strict=True):
        assert example.id == f"{sample.id}/caption/0"
        assert example.suffix == sample.value("caption")
        assert example.extra["slab"] == sample.extra["slab"]


def test_only_some_values_in_another_process(samples):
    texts = pickle.loads(pickle.dumps(_open(("caption",))))
    assert texts.names == ("caption",)
    assert texts[2].value("caption") == samples[2].value("caption")
    with pytest.raises(UserError, match=r"mni152: the sample '.*' has no 't1'; it has caption"):
        texts[2].value("t1")
    copy = pickle.loads(pickle.dumps(samples))
    np.testing.assert_array_equal(
        copy[-1].value("tissue"), samples[len(samples) - 1].value("tissue")
    )
    assert isinstance(copy[0].value("det")[0], Box)
    with pytest.raises(IndexError):
        samples[len(samples)]


def test_a_split_may_be_said_with_the_name(samples):
    found = _open(name="mni152/test", split="")
    assert [found[i].id for i in (0, len(found) - 1)] == [samples[i].id for i in (0, -1)]
    assert len(found) == len(samples)


def test_what_there_is_not():
    with pytest.raises(UserError, match="no split 'dev': name one of train, validation, test"):
        _open(split="dev")
    with pytest.raises(UserError, match="No modality is made of the value 'ct'"):
        _open(("ct",))
    odd = [Modality("ct", "sequence", 9, max_length=4, content="text")]
    with pytest.raises(UserError, match="mni152 has no value 'ct': it has t1, tissue, caption"):
        open_samples("mni152", split="test", names=("ct",), modalities=odd, data_dir="/nowhere")
    with pytest.raises(UserError, match="no samples 'mni'"):
        open_samples("mni", names=("ct",), modalities=odd, data_dir="/nowhere")
