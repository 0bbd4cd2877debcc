"""Hashes tell copies of an image from others, however it was saved, resized or windowed."""

import io

import numpy as np
import pytest
from PIL import Image

from medjax.data.medical.conditioning import hashes
from medjax.data.medical.conditioning.settings import Settings

MOST = Settings.hash_distance


def rgb(grey):
    return np.repeat(grey[..., None], 3, axis=2)


def jpeg(grey):
    data = io.BytesIO()
    Image.fromarray(grey).save(data, "JPEG", quality=50)
    return np.asarray(Image.open(data))


def half(grey):
    return np.asarray(Image.fromarray(grey).resize((grey.shape[1] // 2, grey.shape[0] // 2)))


def windowed(grey, contrast, brightness):
    values = (grey.astype(float) - 128) * contrast + 128 + brightness
    return np.clip(values, 0, 255).astype(np.uint8)


CHANGES = {
    "jpeg": jpeg,
    "half": half,
    "flatter": lambda grey: windowed(grey, 0.6, 0),
    "steeper": lambda grey: windowed(grey, 1.6, 0),
    "brighter": lambda grey: windowed(grey, 1, 30),
    "darker": lambda grey: windowed(grey, 1, -30),
    "cut": lambda grey: grey[4:-4, 4:-4],
    "framed": lambda grey: np.pad(grey, ((30, 10), (5, 40))),
    "all": lambda grey: jpeg(windowed(half(grey), 1.3, 15)),
}


@pytest.fixture(scope="module")
def originals(anatomy):
    return [hashes.hash_of(rgb(grey)) for grey in anatomy]


@pytest.mark.parametrize("change", CHANGES)
def test_copies_are_near(anatomy, originals, change):
    apart = [
        hashes.distance(original, hashes.hash_of(rgb(CHANGES[change](grey))))
        for grey, original in zip(anatomy, originals, strict=True)
    ]
    assert np.mean(np.array(apart) <= MOST) >= 0.95


def test_other_slices_are_far(originals):
    """Slices of one head, 8 mm apart."""
    assert all(len(h) == 73 for h in originals)
    found = {(i, j) for i, j, _ in hashes.pairs(originals, originals, MOST)}
    assert found == {(i, i) for i in range(len(originals))}


@pytest.mark.parametrize("grey", [0, 90, 255])
def test_blank_images_have_none(grey):
    noise = np.random.default_rng(0).integers(0, 3, (60, 80))
    pixels = np.clip(grey + noise, 0, 255).astype(np.uint8)
    assert hashes.hash_of(rgb(pixels)) == ""
    assert hashes.hash_of(np.zeros((0, 4, 3), np.uint8)) == ""


@pytest.mark.parametrize("most", [0, 6, 20, 64])
def test_search_finds_what_comparing_each_with_each_does(monkeypatch, most):
    monkeypatch.setattr(hashes, "_ROWS", 7)
    monkeypatch.setattr(hashes, "_COLUMNS", 11)
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 2, (4, hashes.BITS))[rng.integers(0, 4, 60)]
    bits ^= rng.random(bits.shape) < rng.choice([0, 0.03, 0.2], (60, 1))
    texts = [np.packbits(row).tobytes().hex() for row in bits]
    texts[3] = texts[40] = ""
    one, other = texts[:25], texts[25:]
    apart = (bits[:25, None] != bits[None, 25:]).sum(2) * 64 / hashes.BITS
    true = {
        (i, j): pytest.approx(apart[i, j])
        for i, j in np.argwhere(apart <= most).tolist()
        if one[i] and other[j]
    }
    found = list(hashes.pairs(one, other, most))
    assert {(i, j): d for i, j, d in found} == true
    assert [pair[:2] for pair in found] == sorted(true)
    assert list(hashes.pairs([], other, most)) == list(hashes.pairs(one, [""], most)) == []


def test_what_is_hidden_does_not_count(folder, anatomy):
    """The hash is of what a model sees."""
    written = anatomy[3].copy()
    written[-24:, 20:150] = 255
    whole = folder.record("whole", anatomy[3])
    marked = folder.record("marked", written)
    hidden = folder.record("hidden", written)
    height = len(written)
    hidden = type(hidden)(**vars(hidden) | {"hidden": ((height - 24, 20, height, 150),)})
    blank = folder.record("blank", np.zeros_like(written))
    (one, other, third, none), report = hashes.step([whole, marked, hidden, blank], Settings())
    assert hashes.distance(one.hashes, other.hashes) > MOST
    assert hashes.distance(one.hashes, third.hashes) <= MOST
    assert none.hashes == ""
    assert report.figures == {"images": 4, "blank or unreadable": 1}
    assert [case.record.id for case in report.cases] == ["blank"]
    again, _ = hashes.step([one, other, third, none], Settings())
    assert again == [one, other, third, none]
