"""From arrays to what people look at: pictures, and texts."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, ImageDraw

from medjax.data.samples.sample import UNKNOWN, Box
from medjax.data.wordpiece import WordPiece
from medjax.errors import UserError
from medjax.modalities.boxes import parse_boxes
from medjax.modalities.table import BOXES, IMAGE, LABELS, TEXT, Modality

Picture = UInt8[np.ndarray, "H W 3"]

# Of M. Okabe and K. Ito, "Color Universal Design" (2008): told apart by all kinds of colour vision.
PALETTE = (
    (230, 159, 0),  # orange
    (86, 180, 233),  # sky blue
    (0, 158, 115),  # bluish green
    (240, 228, 66),  # yellow
    (0, 114, 178),  # blue
    (213, 94, 0),  # vermilion
    (204, 121, 167),  # reddish purple
)
_UNKNOWN_COLOUR = (128, 128, 128)
_OPACITY = 0.5  # of labels over an image


def colours() -> UInt8[np.ndarray, "256 3"]:
    """The colour of each class: 0 is black, the unknown grey; beyond the palette it repeats."""
    table = np.zeros((256, 3), np.uint8)
    table[1:] = np.resize(np.array(PALETTE, np.uint8), (255, 3))
    table[UNKNOWN] = _UNKNOWN_COLOUR
    return table


def picture(
    modality: Modality,
    array: np.ndarray,
    *,
    over: np.ndarray | None = None,
    wordpiece: WordPiece | None = None,
) -> Picture:
    """An array of a modality as a picture.

    Args:
      modality: of content image, labels or boxes.
      array: an image [H, W, C] or [H, W], float in [-1, 1] or uint8; labels [H, W]; ids of boxes.
      over: an image beneath labels, class 0 of which lets it through, or beneath boxes, which need
        one.
      wordpiece: of boxes.

    Raises:
      UserError: the content has no picture, or what it needs is not given.
    """
    if modality.content == IMAGE:
        return image_picture(array)
    if modality.content == LABELS:
        return labels_picture(array, over)
    if modality.content != BOXES:
        raise UserError(f"modality {modality.name!r}: {modality.content} has no picture")
    if over is None or wordpiece is None:
        raise UserError(f"modality {modality.name!r}: boxes are drawn over an image, of a text")
    return boxes_picture(parse_boxes(wordpiece, array.tolist()), over)


def image_picture(image: np.ndarray) -> Picture:
    """An image [H, W, C] or [H, W], of 1 or 3 channels, uint8 or float in [-1, 1]; clipped."""
    if image.dtype != np.uint8:
        scaled = np.nan_to_num((image.astype(np.float32) + 1) * 127.5)
        image = np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
    image = image if image.ndim == 3 else image[..., None]
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image.copy()


def labels_picture(labels: Integer[np.ndarray, "H W"], over: np.ndarray | None = None) -> Picture:
    """Labels in fixed colours, also over an image of their size; see `colours`."""
    known = (labels >= 0) & (labels < UNKNOWN)
    table = colours()[np.where(known, labels, UNKNOWN)]
    if over is None:
        return table
    mixed = (1 - _OPACITY) * image_picture(over) + _OPACITY * table
    return np.where((labels != 0)[..., None], np.rint(mixed).astype(np.uint8), image_picture(over))


def boxes_picture(boxes: Iterable[Box], over: np.ndarray) -> Picture:
    """Boxes and their labels over an image; equal labels have one colour."""
    drawn = Image.fromarray(image_picture(over))
    draw = ImageDraw.Draw(drawn)
    height, width = over.shape[:2]
    boxes = list(boxes)
    order = sorted({box.label for box in boxes})
    size = max(8, min(height, width) // 16)
    for box in boxes:
        colour = PALETTE[order.index(box.label) % len(PALETTE)]
        # The last pixel within the far edge.
        corners = (
            round(box.x1 * width),
            round(box.y1 * height),
            max(round(box.x2 * width) - 1, round(box.x1 * width)),
            max(round(box.y2 * height) - 1, round(box.y1 * height)),
        )
        draw.rectangle(corners, outline=colour, width=max(1, min(height, width) // 112))
        draw.text((corners[0] + 2, corners[1] + 1), box.label, fill=colour, font_size=size)
    return np.asarray(drawn).copy()


def text(modality: Modality, wordpiece: WordPiece, ids: Sequence[int] | np.ndarray) -> str:
    """The ids of a text as one; of boxes "label (y1, x1, y2, x2)" in hundredths of the image.

    Other contents' ids are listed as numbers.

    Raises:
      UserError: an id of a text beyond the vocabulary.
    """
    numbers = [int(i) for i in ids]
    if modality.content == BOXES:
        return "; ".join(_spell(box) for box in parse_boxes(wordpiece, numbers))
    if modality.content == TEXT:
        return wordpiece.decode(numbers)
    return " ".join(map(str, numbers))


def _spell(box: Box) -> str:
    return f"{box.label} ({', '.join(f'{100 * part:.0f}' for part in box[1:])})"
