"""Variations of a sample that leave its values true of one another.

Images, labels and boxes are moved, zoomed and turned together, within the margin of the images, so
that nothing is cut off: see `medjax.data.augment`. A turned box is no tight one, so samples with
boxes are not turned; a text may tell how much of the image a thing fills, so samples with a text
are not zoomed. Intensities vary in images alone, in each by itself. Nothing is mirrored: sides
matter. A sample with a value of any other content, such as ids that were made of its image
elsewhere, is not moved at all.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from medjax.data.augment import Augment
from medjax.data.motion import Corners, Motion, content, extent
from medjax.data.samples.sample import UNKNOWN, Box
from medjax.modalities.table import BOXES, IMAGE, LABELS, TEXT


def vary(
    values: Mapping[str, Any],
    contents: Mapping[str, str],
    augment: Augment,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """A random variation of a sample's values.

    Args:
      values: by name, as `Sample` has them; they are left as they are.
      contents: of each value, its modality's.
      augment: how much they vary.
      rng: is drawn from.
    """
    found = {contents[name] for name in values}
    motion = None
    shapes = [v.shape for name, v in values.items() if contents[name] in (IMAGE, LABELS)]
    if shapes and found <= {IMAGE, LABELS, BOXES, TEXT}:
        corners = _content(values, contents, np.array(shapes[0][:2], float))
        motion = augment.motion(
            corners, shapes[0], rng, zoom=TEXT not in found, turn=BOXES not in found
        )
    moved = {
        name: value if motion is None else _move(value, contents[name], motion)
        for name, value in values.items()
    }
    return {
        name: augment.tone(value, rng) if contents[name] == IMAGE else value
        for name, value in moved.items()
    }


def _content(values: Mapping[str, Any], contents: Mapping[str, str], size: np.ndarray) -> Corners:
    """Corners of all that must stay within the image, in pixels of `size`.

    Of labels these are the pixels of a class other than 0.
    """
    corners = []
    for name, value in values.items():
        if contents[name] == IMAGE:
            corners.append((*content(value), value.shape[:2]))
        elif contents[name] == LABELS:
            corners.append((*extent((value > 0) & (value < UNKNOWN)), value.shape))
        elif contents[name] == BOXES:
            corners += [(np.array(box[1:3]), np.array(box[3:5]), (1, 1)) for box in value]
    scaled = [(low * size / of, high * size / of) for low, high, of in corners]
    there = [(low, high) for low, high in scaled if (low < high).all()]
    if not there:
        return np.zeros(2), np.zeros(2)
    lows, highs = zip(*there, strict=True)
    return np.min(lows, axis=0), np.max(highs, axis=0)


def _move(value: Any, content: str, motion: Motion) -> Any:
    if content == IMAGE:
        return motion.image(value)
    if content == LABELS:
        return motion.labels(value)
    if content == BOXES:
        return tuple(_move_box(box, motion) for box in value)
    return value


def _move_box(box: Box, motion: Motion) -> Box:
    corners = motion.corners(np.array(box[1:]).reshape(2, 2))
    return Box(box.label, *np.clip(corners, 0, 1).reshape(-1).tolist())
