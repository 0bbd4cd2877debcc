"""Lines of text in a picture, found by what print looks like: nothing is read.

A line is a row of strokes: thin, sharp, of one height and one grey, many side by side, with nothing
above and below them. Anatomy seldom is all of that at once.
"""

import numpy as np
from jaxtyping import Bool, Float32
from scipy import ndimage

from medjax.data.medical.record import Pixels

# Pixels: strokes are thinner than this, and lines of print this high.
_STROKE = 9
_HEIGHTS = (5, 30)
# Print stands out from what is around it by so many of 255 greys, at least.
CONTRAST = 40
# A line is so many times as wide as high, and has so many strokes from left to right.
_SLIMNESS = 2.5
_STROKES = 6
# Strokes that a width of one height holds, letters being about half as wide as high.
_DENSITY = (0.55, 3.5)
# Share of a line's box that is ink.
_INK = (0.1, 0.62)
# Ink of the rows next to a line, as a share of the line's own.
_MARGIN = 0.35
# Words of a line are at most so many heights apart.
_WORD_GAP = 2.5
# Ink of one line is of one grey: half of its letters' peaks lie within so many greys.
_SPREAD = 48


def lines(picture: Float32[np.ndarray, "height width"], contrast: float = CONTRAST) -> list[Pixels]:
    """Lines of text, bright on dark or dark on bright.

    Args:
      picture: greys from 0 to 255.
      contrast: by which strokes stand out, in greys.

    Returns:
      Tight boxes in pixels, from top to bottom.
    """
    found = []
    for signed in (picture, 255 - picture):
        found += _bright_lines(signed, contrast)
    return sorted(found)


def strokes(picture: Float32[np.ndarray, "height width"]) -> Float32[np.ndarray, "height width"]:
    """By how many greys thin bright things stand out."""
    if not picture.size:
        return np.zeros_like(picture)
    opened = picture
    for extreme in (np.minimum, np.maximum):
        for axis in (0, 1):
            opened = _moving(extreme, opened, _STROKE, axis)
    return picture - opened


def _moving(extreme: np.ufunc, array: np.ndarray, size: int, axis: int) -> np.ndarray:
    """The smallest or largest of the `size` (odd) values about each, by few passes of numpy."""
    array = np.moveaxis(array, axis, 0)
    ends = [(size // 2, size // 2), *[(0, 0)] * (array.ndim - 1)]
    array = np.pad(array, ends, mode="edge")
    done = 1
    while done < size:  # windows of `done` become windows of at most twice that
        step = min(done, size - done)
        array = extreme(array[:-step], array[step:])
        done += step
    return np.moveaxis(array, 0, axis)


def _bright_lines(picture: Float32[np.ndarray, "height width"], contrast: float) -> list[Pixels]:
    relief = strokes(picture)
    ink = relief > contrast
    if not ink.any():
        return []
    # Letters become words: holes up to a stroke's width are filled from left to right, and the
    # dots of i and j joined to their stems.
    blobs, count = ndimage.label(_closed(ink))
    words = []
    for y, x in ndimage.find_objects(blobs, count):
        tall = _HEIGHTS[0] <= y.stop - y.start <= _HEIGHTS[1]
        if tall or y.stop - y.start < _HEIGHTS[0]:
            words.append((y.start, x.start, y.stop, x.stop))
    return [
        box
        for box in _rows(words)
        if _HEIGHTS[0] <= box[2] - box[0] <= _HEIGHTS[1] and _is_print(picture, ink, box)
    ]


def _closed(ink: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    padded = np.pad(ink, _STROKE)
    for size, axis in ((_STROKE, 1), (3, 0)):
        for extreme in (np.maximum, np.minimum):
            padded = _moving(extreme, padded, size, axis)
    return padded[_STROKE:-_STROKE, _STROKE:-_STROKE]


def _rows(words: list[Pixels]) -> list[Pixels]:
    """Joins words of one line, from left to right."""
    rows: list[Pixels] = []
    for word in sorted(words, key=lambda box: (box[1], box)):
        for i, row in enumerate(rows):
            height = max(row[2] - row[0], word[2] - word[0])
            overlap = min(row[2], word[2]) - max(row[0], word[0])
            together = max(row[2], word[2]) - min(row[0], word[0])
            if (
                overlap >= 0.6 * min(row[2] - row[0], word[2] - word[0])
                and together <= 1.5 * max(height, _HEIGHTS[0])
                and word[1] - row[3] <= _WORD_GAP * height
            ):
                rows[i] = (
                    min(row[0], word[0]), row[1], max(row[2], word[2]), max(row[3], word[3]),
                )  # fmt: skip
                break
        else:
            rows.append(word)
    return rows


def _is_print(
    picture: Float32[np.ndarray, "height width"], ink: Bool[np.ndarray, "height width"], box: Pixels
) -> bool:
    y1, x1, y2, x2 = box
    height, width = y2 - y1, x2 - x1
    if width < _SLIMNESS * height:
        return False
    inside = ink[y1:y2, x1:x2]
    share = inside.mean()
    if not _INK[0] <= share <= _INK[1]:
        return False
    # Strokes that a row of pixels crosses, in the rows that cross most.
    crossed = np.sort((np.diff(inside.astype(np.int8), prepend=0, axis=1) == 1).sum(1))
    crossings = crossed[-max(height // 2, 1) :].mean()
    if crossings < _STROKES or not _DENSITY[0] <= crossings * height / width <= _DENSITY[1]:
        return False
    above, below = ink[max(y1 - 2, 0) : y1, x1:x2], ink[y2 : y2 + 2, x1:x2]
    if any(rows.size and rows.mean() > _MARGIN * share for rows in (above, below)):
        return False
    letters, count = ndimage.label(inside)
    peaks = ndimage.maximum(picture[y1:y2, x1:x2], letters, np.arange(1, count + 1))
    low, high = np.percentile(peaks, (25, 75))
    return bool(high - low <= _SPREAD)
