"""Variations of images keep answers true."""

import numpy as np
import pytest

from medjax.data.augment import Augment
from medjax.data.batching import ExampleTransform, make_train_iterator
from medjax.data.example import Example
from medjax.data.loc_tokens import decode_boxes, encode_box
from medjax.errors import UserError

SIZE = 64


def _picture(y1=20, x1=12, y2=44, x2=40):
    """A bright rectangle on black, and its box."""
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[y1:y2, x1:x2] = 180
    return image, encode_box((y1, x1, y2, x2), SIZE, SIZE) + " thing"


def _bright_box(image):
    rows, columns = (np.flatnonzero((image.max(axis=2) > 90).any(axis=a)) for a in (1, 0))
    return np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]) / SIZE


@pytest.mark.parametrize("zoom", [0.0, 0.3])
def test_boxes_move_with_what_they_enclose(zoom):
    augment, rng = Augment(shift=0.3, zoom=zoom), np.random.default_rng(0)
    image, suffix = _picture()
    seen = set()
    for _ in range(30):
        moved, text = augment(image, suffix, rng)
        ((box, label),) = decode_boxes(text)
        assert label == "thing"
        # An interpolated edge is half a pixel unsure, a box's coordinate half a bin.
        np.testing.assert_allclose(box, _bright_box(moved), atol=1.0 / SIZE + 2 / 1024)
        seen.add(text)
    assert len(seen) > 20


def test_nothing_is_cut_off():
    augment, rng = Augment(shift=0.9), np.random.default_rng(0)
    image, _ = _picture(2, 3, 50, 60)
    for _ in range(30):
        moved, _ = augment(image, "an answer", rng)
        assert (moved > 0).sum() == (image > 0).sum()


def test_only_answers_with_boxes_are_zoomed():
    augment, rng = Augment(zoom=0.5), np.random.default_rng(0)
    image, boxed = _picture()
    assert all(np.array_equal(augment(image, "yes", rng)[0], image) for _ in range(5))
    assert not all(np.array_equal(augment(image, boxed, rng)[0], image) for _ in range(5))


def test_turning_keeps_shares_and_cuts_nothing_off():
    augment, rng = Augment(shift=0.9, turn=0.3), np.random.default_rng(0)
    image, boxed = _picture(20, 12, 50, 30)
    angles = []
    for _ in range(30):
        turned, text = augment(image, "yes", rng)
        assert text == "yes"
        # Interpolation blurs the edge; what it takes from one side it gives to the other.
        assert turned.sum() == pytest.approx(image.sum(), rel=0.01)
        y, x = np.nonzero(turned[..., 0] > 90)
        main_axis = np.linalg.eigh(np.cov(np.stack([y, x])))[1][:, 1]
        angles.append(np.degrees(np.arctan2(*main_axis[::-1])) % 180)
    angles = np.minimum(angles, 180 - np.array(angles))  # of the long side, from upright
    assert 15 < angles.max() < 0.3 * 90 + 1
    assert angles.min() < 10
    still, _ = Augment(turn=0.3)(image, boxed, rng)
    np.testing.assert_array_equal(still, image)


def test_a_point_goes_where_the_turn_says():
    """A bright dot turns about the content's middle: worked out by hand."""
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[24:40, 24:40] = 20  # content whose middle is the image's
    image[26:28, 31:33] = 250  # above the middle
    rng = np.random.default_rng(4)
    turn = np.random.default_rng(4).uniform(-1, 1, 2)[1] * 0.9 * np.pi / 2
    turned, _ = Augment(turn=0.9)(image, "yes", rng)
    weight = np.where(turned[..., 0] > 60, turned[..., 0].astype(float), 0.0)
    y, x = np.indices(weight.shape) + 0.5
    found = np.array([(weight * y).sum(), (weight * x).sum()]) / weight.sum()
    up = 32 - 27  # the dot's middle is 5 pixels above
    np.testing.assert_allclose(found, [32 - up * np.cos(turn), 32 - up * np.sin(turn)], atol=0.3)


@pytest.mark.parametrize("level", [0, 90])
def test_a_picture_without_content_or_margin_stays(level):
    augment, rng = Augment(shift=0.5, zoom=0.5, turn=0.5), np.random.default_rng(0)
    image = np.full((SIZE, SIZE, 3), level, np.uint8)
    suffix = encode_box((0, 0, 10, 10), SIZE, SIZE) + " corner"
    assert np.array_equal(augment(image, suffix, rng)[0], image)
    assert augment(image, suffix, rng)[1] == suffix


def test_tones_stay_grey_and_within_range():
    augment, rng = Augment(contrast=0.5, gamma=0.5, noise=0.2), np.random.default_rng(0)
    image, _ = _picture()
    toned, text = augment(image, "yes", rng)
    assert toned.dtype == np.uint8
    assert text == "yes"
    assert np.array_equal(toned[..., 0], toned[..., 2])
    assert not np.array_equal(toned, image)


def test_sizes_are_checked():
    with pytest.raises(UserError, match="shift"):
        Augment(shift=1.5)


def test_off_is_off():
    assert not Augment()
    assert Augment(noise=0.1)


def test_variations_are_a_function_of_seed_and_position():
    image, suffix = _picture()
    examples = [Example(f"e{i}", image, "detect thing", suffix) for i in range(5)]

    class Text:
        def __call__(self, example):
            boxes = decode_boxes(example.suffix)

            class Packed:
                def _asdict(self):
                    return {"box": np.array(boxes[0][0]), "truncated": np.asarray(False)}

            return Packed()

    transform = ExampleTransform(lambda e: e.image, Text(), Augment(shift=0.3))

    def stream(start, count):
        data = make_train_iterator(
            {"a": (examples, 1.0)}, transform, batch_size=2, seed=3, augment=True
        )
        if start:
            data.set_state({**data.get_state(), "next_example": start})
        batches = [next(data).arrays["box"] for _ in range(count)]
        data.close()
        return np.concatenate(batches)

    whole = stream(0, 6)
    np.testing.assert_array_equal(stream(4, 4), whole[4:])
    assert len(np.unique(whole[:, 0])) > 3
