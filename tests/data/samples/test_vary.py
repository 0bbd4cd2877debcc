"""Variations of a sample keep its values true of one another."""

import numpy as np
import pytest

from medjax.data.augment import Augment
from medjax.data.samples import UNKNOWN, Box, Sample
from medjax.data.samples.vary import vary
from medjax.modalities.table import Modality
from medjax.modalities.transforms import SampleTransform

CONTENTS = {
    "ct": "image",
    "small": "image",
    "organ": "labels",
    "det": "boxes",
    "report": "text",
    "n": "ids",
}
EVERYTHING = Augment(shift=0.4, zoom=0.4, turn=0.4)


def _values(*names):
    """A bright rectangle in an image that is not square, its labels, and its box."""
    image = np.zeros((60, 90, 1), np.uint8)
    image[20:36, 30:60] = 180
    labels = np.full((60, 90), 3, np.uint8) * (image[..., 0] > 0)
    labels[26:30, 40:50] = UNKNOWN
    values = {
        "ct": image,
        "small": np.repeat(image[::2, ::2], 3, axis=2),  # the same, at half the size
        "organ": labels,
        "det": (Box("liver", 20 / 60, 30 / 90, 36 / 60, 60 / 90),),
        "report": "large",
        "n": np.arange(3, dtype=np.int32),
    }
    return {name: values[name] for name in names}


def _box(region):
    y, x = np.nonzero(region)
    size = np.array(region.shape * 2)
    return np.array([y.min(), x.min(), y.max() + 1, x.max() + 1]) / size


def _overlap(a, b):
    return (a & b).sum() / (a | b).sum()


def test_images_labels_and_boxes_move_together():
    rng = np.random.default_rng(0)
    values = _values("ct", "small", "organ", "det")
    sizes = set()
    for _ in range(30):
        moved = vary(values, CONTENTS, EVERYTHING, rng)
        bright, labels = moved["ct"][..., 0] > 90, moved["organ"]
        small = (moved["small"] > 90).all(axis=2)
        assert moved["small"].shape == (30, 45, 3)
        assert set(np.unique(labels)) == {0, 3, UNKNOWN}
        assert _overlap(bright, labels > 0) > 0.9
        [box] = moved["det"]
        assert box.label == "liver"
        # An interpolated edge is a pixel unsure.
        np.testing.assert_allclose(box[1:], _box(bright), atol=1.1 / 60)
        np.testing.assert_allclose(box[1:], _box(small), atol=1.1 / 30)
        assert (np.diff(np.reshape(box[1:], (2, 2)), axis=0) > 0).all()
        sizes.add(round((box.y2 - box.y1) * 60, 1))
        # Zoomed, but not turned: the box's sides keep their ratio.
        assert (box.x2 - box.x1) * 90 / ((box.y2 - box.y1) * 60) == pytest.approx(30 / 16)
    assert min(sizes) < 14 < 18 < max(sizes)
    assert (values["ct"] == _values("ct")["ct"]).all()


def test_without_boxes_it_turns_and_without_text_it_is_zoomed():
    rng = np.random.default_rng(1)

    def shapes(*names):
        """Area, and angle of the long side, of labels and image in 20 variations."""
        found = []
        for _ in range(20):
            moved = vary(_values(*names), CONTENTS, EVERYTHING, rng)
            region = moved["organ"] > 0
            assert _overlap(region, moved["ct"][..., 0] > 90) > 0.85
            axis = np.linalg.eigh(np.cov(np.nonzero(region)))[1][:, 1]
            found.append((region.sum() / (16 * 30), np.degrees(np.arctan(axis[0] / axis[1]))))
        return np.ptp(found, axis=0)

    zoomed, turned = shapes("ct", "organ")
    assert zoomed > 0.4
    assert turned > 20
    zoomed, turned = shapes("ct", "organ", "report")
    assert zoomed < 0.1
    assert turned > 20
    zoomed, turned = shapes("ct", "organ", "report", "det")
    assert zoomed == 0
    assert turned < 1e-6


def test_nothing_leaves_the_image():
    rng = np.random.default_rng(2)
    labels = np.zeros((60, 90), np.uint8)
    labels[2:50, 4:30] = 1  # beyond what is bright in the image
    values = _values("ct") | {"organ": labels, "report": "a text"}
    for _ in range(20):
        moved = vary(values, CONTENTS, Augment(shift=0.9), rng)
        assert (moved["organ"] == 1).sum() == 48 * 26
        assert moved["ct"].sum() == values["ct"].sum()
    full = {"organ": np.ones((60, 90), np.uint8)}
    np.testing.assert_array_equal(vary(full, CONTENTS, EVERYTHING, rng)["organ"], full["organ"])


def test_labels_beyond_the_edge_are_those_of_the_margin():
    labels = np.full((40, 40), UNKNOWN, np.uint8)
    labels[10:20, 10:20] = 5
    for seed in range(5):
        moved = vary({"organ": labels}, CONTENTS, Augment(shift=0.9), np.random.default_rng(seed))
        assert (moved["organ"] == 5).sum() == 100
        assert (moved["organ"] == UNKNOWN).sum() == 1500


def test_intensities_vary_in_images_alone():
    values = _values("ct", "small", "organ", "det", "report")
    moved = vary(values, CONTENTS, Augment(contrast=0.5), np.random.default_rng(0))
    assert not np.array_equal(moved["ct"], values["ct"])
    assert moved["ct"].max() != moved["small"].max()
    np.testing.assert_array_equal(moved["organ"], values["organ"])
    assert moved["det"] == values["det"]


def test_what_cannot_be_moved_stays():
    everything, rng = Augment(shift=0.4, contrast=0.5), np.random.default_rng(0)
    moved = vary(_values("ct", "n"), CONTENTS, everything, rng)
    np.testing.assert_array_equal(moved["ct"] > 0, _values("ct")["ct"] > 0)
    assert moved["ct"].max() != 180
    assert vary(_values("report", "det"), CONTENTS, everything, rng) == _values("report", "det")


def test_a_transform_varies_where_it_is_given_a_generator():
    grid = {"image_size": 32, "patch_size": 8}
    modalities = (
        Modality("tok_ct", "image_tokens", 9, content="image", source="ct", **grid),
        Modality("organ", "image_tokens", 9, content="labels", **grid),
    )
    transform = SampleTransform(modalities, augment=Augment(shift=0.4))
    sample = Sample("s", _values("ct", "organ", "report"))
    plain = transform(sample)
    first, again, other = (transform(sample, np.random.default_rng(seed)) for seed in (0, 0, 1))
    for name in ("tok_ct", "organ"):
        np.testing.assert_array_equal(first[name], again[name])
        assert not np.array_equal(first[name], other[name])
        assert not np.array_equal(first[name], plain[name])
        assert first[name].shape == plain[name].shape
    assert _overlap(first["tok_ct"][..., 0] > 0, first["organ"] > 0) > 0.8
