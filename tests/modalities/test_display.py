"""What arrays look like."""

import numpy as np
import pytest

from medjax.data.samples import Box
from medjax.errors import UserError
from medjax.modalities.boxes import encode_box
from medjax.modalities.display import PALETTE, picture, text
from medjax.modalities.table import Modality

GRID = {"image_size": 16, "patch_size": 8}
IMAGE = Modality("ct", "patches", channels=1, content="image", **GRID)
LABELS = Modality("organ", "image_tokens", 64, content="labels", **GRID)
BOXES = Modality("det", "sequence", 600, max_length=16, content="boxes")
TEXT = Modality("report", "sequence", 600, max_length=8, content="text")
IDS = Modality("sound", "sequence_tokens", 50, max_length=6)


def test_images():
    image = np.array([[-1.0, 1.0, 0.0], [-7.0, 7.0, np.nan]], np.float32)
    shown = picture(IMAGE, image[..., None])
    assert shown.dtype == np.uint8
    assert shown.shape == (2, 3, 3)
    assert shown[..., 0].tolist() == [[0, 255, 128], [0, 255, 0]]
    assert (shown == shown[..., :1]).all()
    np.testing.assert_array_equal(picture(IMAGE, shown), shown)


def test_labels_in_fixed_colours():
    labels = np.array([[0, 1, 2], [7, 8, 255]], np.int32)
    shown = picture(LABELS, labels)
    assert shown[0].tolist() == [[0, 0, 0], [*PALETTE[0]], [*PALETTE[1]]]
    assert shown[1].tolist() == [[*PALETTE[6]], [*PALETTE[0]], [128, 128, 128]]
    over = picture(LABELS, labels, over=np.full((2, 3, 1), 100, np.uint8))
    assert over[0, 0].tolist() == [100, 100, 100]
    assert over[0, 1].tolist() == [round((100 + c) / 2) for c in PALETTE[0]]


def test_boxes_over_an_image(wordpiece):
    boxes = (Box("liver", 0.25, 0.5, 0.75, 1.0), Box("brain", 0.0, 0.0, 0.25, 0.25))
    ids = np.array([i for box in boxes for i in encode_box(wordpiece, box)])
    image = np.zeros((80, 40, 1), np.uint8)
    shown = picture(BOXES, ids, over=image, wordpiece=wordpiece)
    # The second label by name has the second colour; corners are those of the box.
    y, x = np.nonzero((shown == PALETTE[1]).all(axis=2))
    np.testing.assert_allclose([y.min(), x.min(), y.max(), x.max()], [20, 20, 59, 39], atol=1)
    assert shown[0, 0].tolist() == [*PALETTE[0]]
    assert not image.any()


def test_texts(wordpiece):
    ids = np.array([*wordpiece.encode("no fracture"), wordpiece.eos_id, 0, 0])
    assert text(TEXT, wordpiece, ids) == "no fracture"
    ids = np.array([*encode_box(wordpiece, Box("liver", 0.0, 0.1, 0.5, 1.0)), wordpiece.eos_id])
    assert text(BOXES, wordpiece, ids) == "liver (0, 10, 51, 100)"
    assert text(IDS, wordpiece, np.array([3, 1])) == "3 1"


def test_what_has_no_picture(wordpiece):
    with pytest.raises(UserError, match="'report': text has no picture"):
        picture(TEXT, np.zeros(3, np.int32))
    with pytest.raises(UserError, match="'det': boxes are drawn over an image"):
        picture(BOXES, np.zeros(3, np.int32), wordpiece=wordpiece)
