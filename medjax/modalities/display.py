"""From arrays to what people look at: pictures, and texts."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, ImageDraw, ImageFont

from medjax.data.samples.sample import UNKNOWN, Box
from medjax.data.wordpiece import WordPiece
from medjax.errors import UserError
from medjax.modalities.boxes import parse_boxes
from medjax.modalities.table import BOXES, IMAGE, LABELS, TEXT, Modality

Picture = UInt8[np.ndarray, "H W 3"]
_Corners = tuple[int, int, int, int]  # left, top, right, bottom

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
    width, height = drawn.size
    boxes = list(boxes)
    order = sorted({box.label for box in boxes})
    font = ImageFont.load_default(max(9, min(width, height) // 16))
    taken: list[_Corners] = []
    for box in boxes:
        colour = PALETTE[order.index(box.label) % len(PALETTE)]
        left, top = round(box.x1 * width), round(box.y1 * height)
        # The last pixel within the far edge.
        right, bottom = round(box.x2 * width) - 1, round(box.y2 * height) - 1
        corners = left, top, max(right, left), max(bottom, top)
        draw.rectangle(corners, outline=colour, width=max(1, min(width, height) // 112))
        _, _, *extent = map(math.ceil, draw.textbbox((0, 0), box.label, font=font))
        taken.append(_beside(corners, extent, drawn.size, taken))
        draw.rectangle(taken[-1], fill=(0, 0, 0))
        draw.text(taken[-1][:2], box.label, fill=colour, font=font)
    return np.asarray(drawn).copy()


def _beside(
    box: _Corners, extent: Sequence[int], size: tuple[int, int], taken: Iterable[_Corners]
) -> _Corners:
    """Where a label goes: to a corner of its box, in the picture, on no other label if it can."""
    left, top, right, bottom = box
    width, height = extent
    places = [
        (x, y)
        for y in (top - height - 1, bottom + 1, top + 2, bottom - height - 1)
        for x in (left, right - width)
    ]
    fitting = [
        (x, y, x + width, y + height)
        for x, y in places
        if 0 <= x <= size[0] - width and 0 <= y <= size[1] - height
    ]
    free = [place for place in fitting if not any(_overlap(place, other) for other in taken)]
    x = min(max(left, 0), max(size[0] - width, 0))
    return next(iter(free or fitting), (x, top, x + width, top + height))


def _overlap(a: _Corners, b: _Corners) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


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
