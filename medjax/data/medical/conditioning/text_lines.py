"""Lines of text in a picture, found by what print looks like: nothing is read.

A line is a run of glyphs: thin, sharp, of one height, on one base line and of one grey, many side
by side, with nothing like them above and below. Anatomy seldom is all of that at once; what is
connected to something large is no glyph.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32
from scipy import ndimage
from scipy.sparse import coo_array, csgraph
from scipy.spatial import KDTree

from medjax.data.medical.record import Pixels

# Pixels: strokes are thinner than this, and glyphs this high.
_STROKE = 9
_HEIGHTS = (4, 30)
# By so many of 255 greys glyphs stand out that are beside a line that was found.
_FAINT = 24
# The widest glyph, in heights; letters up to so many pixels high may touch, and be a word.
_WIDEST, _TOUCHING = 2.5, 9
# Neighbours of a line: heights alike within a factor, tops or bottoms within a share of the height,
# and so many heights apart.
_ALIKE, _ALIGNED, _GAP = 2.0, 0.3, 2.0
# Lines are one if they are so much higher together, and so many heights apart, at most.
_ONE_LINE, _HIDDEN = 1.3, 12.0
# Of two lines that share more than this part of one, the slimmer is the line.
_SAME = 0.25
# Of a line's rows: at most so many times the height of its tall glyphs.
_TALLEST = 1.5
# A line is so many times as wide as high, and has so many strokes from left to right: more if it
# has few glyphs, because letters touch.
_SLIMNESS = 2.5
_STROKES, _STROKES_OF_FEW = 6, 12
# Strokes that a width of one height holds, letters being about half as wide as high.
_DENSITY = (0.55, 3.5)
# Share of a line's box that is ink.
_INK = (0.1, 0.62)
# Ink of the rows next to a line, as a share of the line's own.
_MARGIN = 0.35
# The ink's centre in a line's thirds: they differ by at most such a share of its height.
_BENT = 0.2
# Ink of one line is of one grey: half of its glyphs' peaks lie within so many greys.
_SPREAD = 48


def lines(
    picture: Float32[np.ndarray, "height width"], contrasts: Sequence[float], enough: int = 5
) -> list[Pixels]:
    """Lines of text, bright on dark or dark on bright.

    Args:
      picture: greys from 0 to 255.
      contrasts: by which strokes stand out, in greys; lines are looked for at each.
      enough: glyphs of a line; one that has fewer, because letters touch, needs more strokes.

    Returns:
      Tight boxes in pixels, from top to bottom.
    """
    if not picture.size:
        return []
    found = [
        line
        for signed in (picture, 255 - picture)
        for line in _bright_lines(signed, contrasts, enough)
    ]
    # What is between the letters of a line, and above it, can look like a line, but never as slim.
    kept: list[Pixels] = []
    for line in sorted(found, key=lambda box: (box[0] - box[2]) / (box[3] - box[1]), reverse=True):
        if not any(overlap(line, other) > _SAME for other in kept):
            kept.append(line)
    return sorted(kept)


def overlap(a: Pixels, b: Pixels) -> float:
    """The part of a box that another covers."""
    height = min(a[2], b[2]) - max(a[0], b[0])
    width = min(a[3], b[3]) - max(a[1], b[1])
    return max(height, 0) * max(width, 0) / ((a[2] - a[0]) * (a[3] - a[1]))


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


def _bright_lines(
    picture: Float32[np.ndarray, "height width"], contrasts: Sequence[float], enough: int
) -> list[Pixels]:
    relief = strokes(picture)
    found: list[Pixels] = []
    seen = []
    for contrast in contrasts:
        blobs = _Blobs.of(relief > contrast)
        seen.append(blobs.boxes[blobs.tall])
        found += [
            _around(glyphs)
            for glyphs in _runs(seen[-1])
            if _is_print(picture, blobs, glyphs, contrast, enough)
        ]
    if not found:
        return []
    faint = _Blobs.of(relief > _FAINT)
    glyphs = np.concatenate([*seen, faint.boxes[faint.tall]])
    return _united([_grown(line, glyphs) for line in _united(found)])


@dataclasses.dataclass(frozen=True)
class _Blobs:
    """What is connected in a picture's ink.

    Attributes:
      labels: 0 where there is no ink, else the number of the blob, from 1.
      boxes: int [blobs, 4], y1, x1, y2, x2.
      small: whether blobs are no larger than glyphs; what is larger, or touches that, is anatomy.
      tall: those of them that are no dots.
    """

    labels: np.ndarray
    boxes: np.ndarray
    small: np.ndarray
    tall: np.ndarray

    @classmethod
    def of(cls, ink: Bool[np.ndarray, "height width"]) -> "_Blobs":
        labels, count = ndimage.label(ink, np.ones((3, 3)))
        boxes = np.array(
            [(y.start, x.start, y.stop, x.stop) for y, x in ndimage.find_objects(labels, count)],
            int,
        ).reshape(-1, 4)
        heights, widths = (boxes[:, 2:] - boxes[:, :2]).T
        small = (heights <= _HEIGHTS[1]) & ((widths <= _WIDEST * heights) | (heights <= _TOUCHING))
        return cls(labels, boxes, small, small & (heights >= _HEIGHTS[0]))


def _united(found: Sequence[Pixels]) -> list[Pixels]:
    """Lines that are parts of one, the middle of which anatomy may hide."""
    united: list[Pixels] = []
    for line in sorted(found, key=lambda box: box[1]):
        for i, (y1, _, y2, x2) in enumerate(united):
            height = min(y2 - y1, line[2] - line[0])
            together = max(y2, line[2]) - min(y1, line[0])
            if together <= _ONE_LINE * height + 1 and line[1] - x2 <= _HIDDEN * height:
                united[i] = _around(np.array([united[i], line]))
                break
        else:
            united.append(line)
    return united


def _grown(line: Pixels, glyphs: np.ndarray) -> Pixels:
    """A line with the glyphs at either end that are too faint, or too crowded, to begin one."""
    height = line[2] - line[0]
    tops, bottoms = glyphs[:, 0] - line[0], line[2] - glyphs[:, 2]
    on_line = (np.minimum(tops, bottoms) >= -1) & (tops + bottoms <= height / 2)
    glyphs = glyphs[on_line]
    while True:
        near = (glyphs[:, 1] - line[3] <= _GAP * height) & (line[1] - glyphs[:, 3] <= _GAP * height)
        grown = _around(np.concatenate([[line], glyphs[near]]))
        if grown == line:
            return line
        line = grown


def _runs(glyphs: np.ndarray) -> list[np.ndarray]:
    """Groups glyphs that stand in a row: each int [glyphs, 4], y1, x1, y2, x2."""
    if not len(glyphs):
        return []
    heights, widths = (glyphs[:, 2:] - glyphs[:, :2]).T
    # Pairs near enough to be neighbours; all pairs of a large image's texture would be too many.
    middles = (glyphs[:, :2] + glyphs[:, 2:]) / 2
    reach = heights.max(), widths.max() + _GAP * heights.max()
    one, other = KDTree(middles / reach).query_pairs(1, p=np.inf, output_type="ndarray").T
    low, high = (f(heights[one], heights[other]) for f in (np.minimum, np.maximum))
    top, _, bottom, _ = abs(glyphs[one] - glyphs[other]).T
    apart = np.maximum(*glyphs[[one, other], 1]) - np.minimum(*glyphs[[one, other], 3])
    linked = (
        (high <= _ALIKE * low)
        & (np.minimum(top, bottom) <= np.maximum(_ALIGNED * low, 1))
        & (apart <= _GAP * high)
    )
    links = coo_array(
        (np.ones(linked.sum()), (one[linked], other[linked])), (len(glyphs), len(glyphs))
    )
    count, run = csgraph.connected_components(links, directed=False)
    order = np.argsort(run, kind="stable")
    ends = np.cumsum(np.bincount(run, minlength=count))[:-1]
    return [_in_line(glyphs[part]) for part in np.split(order, ends)]


def _in_line(glyphs: np.ndarray) -> np.ndarray:
    """Those of a chain of glyphs that are on its line: letters of a script differ by a third."""
    height = np.percentile(glyphs[:, 2] - glyphs[:, 0], 75)
    middles = (glyphs[:, 0] + glyphs[:, 2]) / 2
    near = abs(middles - np.median(middles)) <= height * (_TALLEST - 1) / 2 + 1
    return glyphs[near & (glyphs[:, 2] - glyphs[:, 0] <= _TALLEST * height)]


def _around(glyphs: np.ndarray) -> Pixels:
    if not len(glyphs):
        return 0, 0, 0, 0
    (y1, x1), (y2, x2) = glyphs[:, :2].min(0), glyphs[:, 2:].max(0)
    return int(y1), int(x1), int(y2), int(x2)


def _is_print(
    picture: Float32[np.ndarray, "height width"],
    blobs: _Blobs,
    glyphs: np.ndarray,
    contrast: float,
    enough: int,
) -> bool:
    y1, x1, y2, x2 = _around(glyphs)
    height, width = y2 - y1, x2 - x1
    if height == 0 or width < _SLIMNESS * height:
        return False
    # What is taller than the line is no part of it, and may well stand next to it.
    like = blobs.small & (blobs.boxes[:, 2] - blobs.boxes[:, 0] <= _TALLEST * height)
    top = max(y1 - 2, 0)
    ink = np.append(False, like)[blobs.labels[top : y2 + 2, x1:x2]]
    above, inside, below = np.split(ink, [y1 - top, y2 - top])
    share = inside.mean()
    if not _INK[0] <= share <= _INK[1]:
        return False
    # Strokes that a row of pixels crosses, in the rows that cross most.
    crossed = np.sort((np.diff(inside.astype(np.int8), prepend=0, axis=1) == 1).sum(1))
    crossings = crossed[-max(height // 2, 1) :].mean()
    strokes_needed = _STROKES if len(glyphs) >= enough else _STROKES_OF_FEW
    if crossings < strokes_needed or not _DENSITY[0] <= crossings * height / width <= _DENSITY[1]:
        return False
    if any(rows.size and rows.mean() > _MARGIN * share for rows in (above, below)):
        return False
    # What is between letters is also above or below them.
    greys = picture[top : y2 + 2, x1:x2]
    around = [np.median(rows) for rows in (greys[: y1 - top], greys[y2 - top :]) if rows.size]
    if around and greys[y1 - top : y2 - top][inside].mean() - min(around) < contrast / 2:
        return False
    # A line is straight: all its parts have their ink at one height.
    centres = [
        np.average(np.arange(height), weights=part.sum(1)) if part.any() else np.inf
        for part in np.array_split(inside, 3, axis=1)
    ]
    if np.ptp(centres) > _BENT * height:
        return False
    peaks = [picture[a:c, b:d].max() for a, b, c, d in glyphs]
    low, high = np.percentile(peaks, (25, 75))
    return bool(high - low <= _SPREAD)
