"""Thumbnails: what they weigh together, whatever their number."""

import io

import numpy as np
import pytest
from PIL import Image

from medjax import thumbnails as module
from medjax.thumbnails import thumbnails


def noise(side=500):
    """An image that compresses badly."""
    return np.random.default_rng(0).integers(0, 256, (side, side // 2, 3), np.uint8)


def test_a_few_are_large():
    [made] = thumbnails({"a": noise()}, {"a": 3}).values()
    assert (made.width, made.height) == (224, 448)
    opened = Image.open(io.BytesIO(made.data))
    assert (opened.size, opened.format.lower()) == ((224, 448), made.format)
    assert made.uri.startswith(f"data:image/{made.format};base64,")


def test_many_are_small(monkeypatch):
    monkeypatch.setattr(module, "PAGE_BYTES", 60_000)
    images = {str(i): noise(300) for i in range(6)} | {"flat": np.zeros((300, 300, 3), np.uint8)}
    made = thumbnails(images, dict.fromkeys(images, 1))
    assert sum(len(image.data) for image in made.values()) <= 60_000
    assert made["0"].height < 300
    assert (made["flat"].width, made["flat"].height) == (300, 300)  # it fits as it is


def test_many_rows_make_them_smaller_too(monkeypatch):
    monkeypatch.setattr(module, "TABLE_BYTES", 100_000)
    [few] = thumbnails({"a": noise(200)}, {"a": 1}).values()
    [many] = thumbnails({"a": noise(200)}, {"a": 20}).values()
    assert few.height == 200
    assert 20 * len(many.data) <= 100_000


def test_an_image_that_fits_nowhere_is_as_small_as_can_be(monkeypatch):
    monkeypatch.setattr(module, "PAGE_BYTES", 1)
    [made] = thumbnails({"a": noise(100)}, {"a": 1}).values()
    assert made.height == 48


def test_a_missing_image_is_told_of():
    with pytest.raises(ValueError, match="1 images are missing, such as 'b'"):
        thumbnails({"a": noise(10)}, {"a": 1, "b": 1})
    assert thumbnails({}, {}) == {}
