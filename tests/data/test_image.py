import pickle
from pathlib import Path

import numpy as np
import pytest

from medjax.data.example import Example
from medjax.data.image import ImageTransform, resize, to_float

REFERENCE = Path(__file__).parents[1] / "reference" / "image_preprocess.npz"


@pytest.fixture(scope="module")
def reference():
    with np.load(REFERENCE) as arrays:
        return dict(arrays)


def test_resize_equals_big_vision_in_every_pixel(reference):
    np.testing.assert_array_equal(resize(reference["image"], 224), reference["resized_224"])


def test_to_float_equals_big_vision(reference):
    ours = to_float(reference["resized_224"])[::8, ::8]
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, reference["value_range"])


def _example(value: int = 0, key: str = "a") -> Example:
    return Example(id="x", pixels=np.full((6, 4, 3), value, np.uint8), prefix="q", image_key=key)


@pytest.mark.parametrize("shape", [(5, 9, 3), (40, 31, 3), (16, 16, 3), (1, 1, 3)])
def test_resize_agrees_with_the_triangle_filter_written_out(shape):
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)

    def filtered(values: np.ndarray) -> np.ndarray:  # [length, ...] -> [16, ...] in float64
        scale = len(values) / 16
        out = []
        for target in range(16):
            center, width = (target + 0.5) * scale, max(scale, 1.0)
            weight = np.maximum(0, 1 - np.abs(np.arange(len(values)) + 0.5 - center) / width)
            out.append(np.tensordot(weight / weight.sum(), values, axes=1))
        return np.stack(out)

    expected = filtered(filtered(image.astype(np.float64)).swapaxes(0, 1)).swapaxes(0, 1)
    ours = resize(image, 16)
    assert ours.shape == (16, 16, 3)
    assert ours.dtype == np.uint8
    # Fractions are cut off, and float32 may put a whole number just below itself.
    assert (ours <= expected + 1e-3).all()
    assert (ours > expected - 1 - 1e-3).all()


def test_an_image_of_the_right_size_stays_as_it_is():
    image = np.random.default_rng(1).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    np.testing.assert_array_equal(resize(image, 16), image)


def test_to_float_spans_minus_one_to_one():
    assert to_float(np.array([0, 255], np.uint8)).tolist() == [-1.0, 1.0]


def test_transform_resizes_an_image_once():
    transform = ImageTransform(8)
    first = transform(_example(3))
    assert first.shape == (8, 8, 3)
    assert (first == 3).all()
    # Equal keys promise equal pixels, so the second image is not looked at.
    assert transform(_example(9)) is first
    assert (transform(_example(9, key="b")) == 9).all()
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1


def test_an_image_without_a_key_is_never_remembered():
    transform = ImageTransform(8)
    assert (transform(_example(3, key="")) == 3).all()
    assert (transform(_example(9, key="")) == 9).all()


def test_the_cache_keeps_to_its_bytes_and_drops_what_was_used_longest_ago():
    transform = ImageTransform(8, cache_bytes=2 * 8 * 8 * 3)
    a, b = transform(_example(1, "a")), transform(_example(2, "b"))
    assert transform(_example(0, "a")) is a
    transform(_example(3, "c"))
    assert transform(_example(0, "a")) is a
    assert transform(_example(2, "b")) is not b


def test_no_cache_at_all():
    transform = ImageTransform(8, cache_bytes=0)
    assert (transform(_example(1)) == 1).all()
    assert (transform(_example(2)) == 2).all()


def test_a_copy_in_another_process_starts_empty():
    transform = ImageTransform(8, cache_bytes=10_000)
    transform(_example(3))
    copy = pickle.loads(pickle.dumps(transform))
    assert (copy.size, copy.cache_bytes) == (8, 10_000)
    assert (copy(_example(9)) == 9).all()
