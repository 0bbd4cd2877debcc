"""Variations of training images that leave their answers true.

A picture with a dark margin, as most medical images have, may be moved within it: nothing is cut
off, so every answer holds, and boxes in the answer move along. Zooming changes how much of the
image a thing fills; only answers with boxes are told of it, so only they are zoomed. Turning keeps
shares, but a turned box is no tight one, so only answers without boxes are turned. A picture
without a margin is neither moved, zoomed nor turned. Intensities vary in contrast, gamma and noise.
"""

import dataclasses
import re

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from medjax.data.loc_tokens import LOC_REGEX, LOC_TOKENS, NUM_LOC
from medjax.errors import UserError

# Darker than this in every channel is margin; JPEG leaves such noise in black.
_DARK = 12
_BOX = re.compile(f"(?:{LOC_REGEX.pattern}){{4}}")


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random variations; each field is a largest size in [0, 1), 0 switches it off.

    Attributes:
      shift: of the side of the image.
      zoom: 0.1 is between 1 / 1.1 and 1.1 times.
      turn: of a right angle, either way.
      contrast: 0.2 is between 0.8 and 1.2 times.
      gamma: 0.2 is an exponent between 1 / 1.2 and 1.2.
      noise: standard deviation, of the range of intensities.
    """

    shift: float = 0.0
    zoom: float = 0.0
    turn: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    noise: float = 0.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if not 0.0 <= getattr(self, field.name) < 1.0:
                raise UserError(
                    f"data.augment.{field.name} {getattr(self, field.name)} is not in [0, 1)"
                )

    def __bool__(self) -> bool:
        return any(dataclasses.astuple(self))

    def __call__(
        self, image: UInt8[np.ndarray, "S S 3"], suffix: str, rng: np.random.Generator
    ) -> tuple[UInt8[np.ndarray, "S S 3"], str]:
        """A variation of a square image, and the answer that is true of it."""
        if self.shift or self.zoom or self.turn:
            image, suffix = self._move(image, suffix, rng)
        if self.contrast or self.gamma or self.noise:
            image = self._tone(image, rng)
        return image, suffix

    def _move(self, image, suffix, rng):
        low, high = _content(image)
        size = np.array(image.shape[:2])
        log_zoom, turn = rng.uniform(-1, 1, 2) * (np.log1p(self.zoom), self.turn * np.pi / 2)
        wanted = rng.uniform(-self.shift, self.shift, 2) * size
        if not (low < high).all() or ((low == 0) & (high == size)).any():
            return image, suffix
        half = (high - low) / 2
        if _BOX.search(suffix):
            scale = min(float(np.exp(log_zoom)), float((size / (2 * half)).min()))
            matrix = scale * np.eye(2)
        else:
            cos, sin = np.cos(turn), np.sin(turn)
            matrix = np.array([[cos, -sin], [sin, cos]])
            if (np.abs(matrix) @ half * 2 > size).any():  # it would not fit
                matrix = np.eye(2)
        # A point p goes to matrix @ p + move; what is no margin must stay within the image.
        middle, half = (low + high) / 2, np.abs(matrix) @ half
        move = np.clip(middle + wanted, half, size - half) - matrix @ middle
        if np.array_equal(matrix, np.eye(2)):
            move = np.rint(move)
        moved = _affine(image, matrix, move)
        return moved, _BOX.sub(lambda m: _move_box(m[0], matrix[0, 0], move / size), suffix)

    def _tone(self, image, rng):
        contrast = 1 + rng.uniform(-self.contrast, self.contrast)
        gamma = np.exp(rng.uniform(-1, 1) * np.log1p(self.gamma))
        levels = np.arange(256) / 255
        table = np.rint(contrast * levels**gamma * 255).astype(np.int16)
        toned = table[image]
        if self.noise:
            # The same in all channels: grey stays grey.
            grain = rng.standard_normal(image.shape[:2], np.float32) * np.float32(self.noise * 255)
            toned += grain.astype(np.int16)[..., None]
        return np.clip(toned, 0, 255, out=toned).astype(np.uint8)


def _content(image) -> tuple[np.ndarray, np.ndarray]:
    """Corners (y, x) of what is not margin; equal corners if all is dark."""
    # Channel by channel, since NumPy is slow along a short last axis.
    bright = np.maximum(np.maximum(image[..., 0], image[..., 1]), image[..., 2]) > _DARK
    spans = [np.flatnonzero(bright.any(axis=axis)) for axis in (1, 0)]
    if not len(spans[0]):
        return np.zeros(2), np.zeros(2)
    return np.array([s[0] for s in spans], float), np.array([s[-1] + 1 for s in spans], float)


def _affine(image, matrix: np.ndarray, move: np.ndarray):
    if np.array_equal(matrix, np.eye(2)):
        result = np.zeros_like(image)
        (dy, dx), (height, width) = move.astype(int), image.shape[:2]
        result[max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)] = image[
            max(0, -dy) : height - max(0, dy), max(0, -dx) : width - max(0, dx)
        ]
        return result
    # Pillow asks where a pixel of the result comes from, with x before y.
    back = np.linalg.inv(matrix)
    (yy, yx), (xy, xx) = back
    y, x = -back @ move
    picture, wanted = Image.fromarray(image), (xx, xy, x, yx, yy, y)
    return np.asarray(
        picture.transform(picture.size, Image.Transform.AFFINE, wanted, Image.Resampling.BILINEAR)
    )


def _move_box(text: str, scale: float, move: np.ndarray) -> str:
    """Four loc tokens y1 x1 y2 x2 after the move (in parts of the image)."""
    bins = np.array([int(n) for n in re.findall(r"\d+", text)], float).reshape(2, 2)
    moved = np.clip(np.rint(bins * scale + move * NUM_LOC), 0, NUM_LOC - 1).astype(int)
    return "".join(LOC_TOKENS[n] for n in moved.reshape(-1))
