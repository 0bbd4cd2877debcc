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

from medjax.data.loc_tokens import LOC_REGEX, LOC_TOKENS, NUM_LOC
from medjax.data.motion import Corners, Motion, content
from medjax.errors import UserError

_BOX = re.compile(f"(?:{LOC_REGEX.pattern}){{4}}")


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random variations; each field is a largest size in [0, 1), 0 switches it off.

    One draw of the geometry (`motion`) moves all that shows one thing; see `samples.vary`.

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
        boxed = bool(_BOX.search(suffix))
        motion = self.motion(content(image), image.shape, rng, zoom=boxed, turn=not boxed)
        if motion is not None:
            image = motion.image(image)
            suffix = _BOX.sub(lambda match: _move_box(match[0], motion), suffix)
        return self.tone(image, rng), suffix

    def motion(
        self,
        corners: Corners,
        shape: tuple[int, ...],
        rng: np.random.Generator,
        *,
        zoom: bool,
        turn: bool,
    ) -> Motion | None:
        """Draws how an image moves within its margin; None if it stays.

        Args:
          corners: of what must stay within the image, as `motion.content` gives them.
          shape: of the image.
          rng: is drawn from.
          zoom: whether it may be zoomed. turn: whether it may be turned.
        """
        if not (self.shift or self.zoom or self.turn):
            return None
        low, high = corners
        size = np.array(shape[:2], float)
        log_zoom, angle = rng.uniform(-1, 1, 2) * (np.log1p(self.zoom), self.turn * np.pi / 2)
        wanted = rng.uniform(-self.shift, self.shift, 2) * size
        if not (low < high).all() or ((low == 0) & (high == size)).any():
            return None
        half = (high - low) / 2
        matrix = np.eye(2)
        if turn:
            cos, sin = np.cos(angle), np.sin(angle)
            matrix = np.array([[cos, -sin], [sin, cos]])
            if (np.abs(matrix) @ half * 2 > size).any():  # it would not fit
                matrix = np.eye(2)
        if zoom:
            most = (size / (2 * np.abs(matrix) @ half)).min()
            matrix = min(float(np.exp(log_zoom)), float(most)) * matrix
        # What is no margin must stay within the image.
        middle, half = (low + high) / 2, np.abs(matrix) @ half
        move = np.clip(middle + wanted, half, size - half) - matrix @ middle
        if np.array_equal(matrix, np.eye(2)):
            move = np.rint(move)
        return Motion(size, matrix, move)

    def tone(
        self, image: UInt8[np.ndarray, "H W C"], rng: np.random.Generator
    ) -> UInt8[np.ndarray, "H W C"]:
        """An image with other intensities, drawn."""
        if not (self.contrast or self.gamma or self.noise):
            return image
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


def _move_box(text: str, motion: Motion) -> str:
    """Four loc tokens y1 x1 y2 x2 after a motion without turn."""
    bins = np.array([int(n) for n in re.findall(r"\d+", text)], float).reshape(2, 2)
    moved = np.clip(np.rint(motion.corners(bins, NUM_LOC)), 0, NUM_LOC - 1).astype(int)
    return "".join(LOC_TOKENS[n] for n in moved.reshape(-1))
