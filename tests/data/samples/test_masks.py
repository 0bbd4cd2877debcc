"""One class at a time, cut out of labels as `<seg>` tokens say it."""

import jax
import numpy as np
import pytest

from medjax.data.augment import Augment
from medjax.data.samples import UNKNOWN, Sample
from medjax.data.samples.masks import MaskSamples, MaskTransform, crop


def ellipse(height=70, width=90) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return ((y - 30.2) / 21.3) ** 2 + ((x - 50.1) / 34.8) ** 2 < 1


@pytest.mark.parametrize("size", [16, 64])
def test_a_crop_is_the_resized_tight_box(size):
    mask = ellipse()
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32)
    # jax.image follows TensorFlow's kernel.
    wanted = jax.image.resize(box, (size, size), "linear", antialias=True)
    found = crop(mask, size)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=2e-6)
    assert ((found > 0) & (found < 1)).any()


def test_a_box_is_a_full_square_and_nothing_has_none():
    mask = np.zeros((9, 9), bool)
    mask[2:5, 3:8] = True
    np.testing.assert_allclose(crop(mask, 64), 1, atol=1e-6)
    with pytest.raises(ValueError, match="an empty mask"):
        crop(np.zeros((4, 4), bool), 64)


def source() -> list[Sample]:
    """A sample with classes 1 (4 pixels) and 2 (10), one with nothing, one with class 2 (9)."""
    maps = np.zeros((3, 8, 8), np.uint8)
    maps[0, :2, :2], maps[0, 3:5, :5], maps[0, 7] = 1, 2, UNKNOWN
    maps[2, 4:7, 1:4] = 2

    class Source(list):
        faults = {"bad": 3}

    return Source(
        Sample(f"s{i}", {"organ": lambda i=i: maps[i]}, {"slab": i}, "here") for i in range(3)
    )


def test_every_class_that_is_large_enough_is_a_sample():
    classes = ("nothing", "cyst", "liver")
    samples = MaskSamples(source(), "organ", classes, min_pixels=4)
    assert [s.id for s in samples] == ["s0/cyst", "s0/liver", "s2/liver"]
    assert samples.names == ("organ",)
    assert samples.faults == {"bad": 3}
    assert samples[2].extra == {"slab": 2, "class": 2, "class_name": "liver"}
    assert samples[2].where == "here"
    assert [s.id for s in MaskSamples(source(), "organ", min_pixels=10)] == ["s0/2"]
    assert len(MaskSamples(source(), "organ", min_pixels=11)) == 0


def test_rows():
    samples = MaskSamples(source(), "organ", min_pixels=4)
    row = MaskTransform("tok", 64)(samples[0])
    assert set(row) == {"tok", "id", "truncated"}
    assert row["id"] == "s0/1"
    assert row["tok"].shape == (64, 64)
    np.testing.assert_allclose(row["tok"], 1, atol=1e-6)


def test_variations_turn_a_mask_and_never_lose_it():
    mask = ellipse().astype(np.uint8)
    mask[5, 50] = 2  # a pixel, which a turn may drop
    (kept, dot) = MaskSamples(
        type("Source", (list,), {"faults": {}})([Sample("s", {"organ": mask})]), "organ"
    )
    transform = MaskTransform("tok", 64, Augment(turn=0.3))
    plain = transform(kept)["tok"]
    varied = [transform(kept, np.random.default_rng(i))["tok"] for i in range(8)]
    assert max(abs(v - plain).mean() for v in varied) > 0.03
    again = transform(kept, np.random.default_rng(3))["tok"]
    np.testing.assert_array_equal(again, varied[3])
    for i in range(30):
        np.testing.assert_allclose(transform(dot, np.random.default_rng(i))["tok"], 1, atol=1e-6)
