"""Moving, zooming and turning what shows one thing: images, labels, and boxes alike."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

# Darker than this in every channel is margin; JPEG leaves such noise in black.
_DARK = 12

Corners = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Motion:
    """A point p of an image, (y, x) in pixels, goes to matrix @ p + move.

    Attributes:
      size: height and width of the image that is meant; others are moved alike in parts of theirs.
      matrix: as above. move: whole pixels where nothing is zoomed or turned.
    """

    size: Float[np.ndarray, "2"]
    matrix: Float[np.ndarray, "2 2"]
    move: Float[np.ndarray, "2"]

    def image(self, image: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "H W C"]:
        """The image after the motion, interpolated; black where it comes from outside."""
        motion = self._of(image.shape)
        if not motion._whole_pixels:
            return _interpolated(image, motion.matrix, motion.move)
        result = np.zeros_like(image)
        (dy, dx), (height, width) = motion.move.astype(int), image.shape[:2]
        result[max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)] = image[
            max(0, -dy) : height - max(0, dy), max(0, -dx) : width - max(0, dx)
        ]
        return result

    def labels(self, labels: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
        """The labels after the motion, never mixed; from outside come those of the margin."""
        motion = self._of(labels.shape)
        back = np.linalg.inv(motion.matrix)
        y, x = np.ogrid[: labels.shape[0], : labels.shape[1]]
        y, x = y + 0.5 - motion.move[0], x + 0.5 - motion.move[1]
        # Without a turn one row and one column of places tell all.
        places = (back[0, 0] * y, back[1, 1] * x)
        if back[0, 1] or back[1, 0]:
            places = (places[0] + back[0, 1] * x, places[1] + back[1, 0] * y)
        rows, columns = (
            np.clip(np.floor(place).astype(np.intp), 0, length - 1)
            for place, length in zip(places, labels.shape, strict=True)
        )
        return labels[rows, columns]

    def corners(
        self, corners: Float[np.ndarray, "2 2"], scale: float = 1.0
    ) -> Float[np.ndarray, "2 2"]:
        """A box's corners ((y1, x1), (y2, x2)), in parts of the image, after a motion without turn.

        Args:
          corners: in any unit.
          scale: how many of it the image's side has.
        """
        return corners * np.diag(self.matrix) + self.move / self.size * scale

    @property
    def _whole_pixels(self) -> bool:
        return np.array_equal(self.matrix, np.eye(2)) and np.array_equal(
            self.move, np.rint(self.move)
        )

    def _of(self, shape: tuple[int, ...]) -> "Motion":
        """The same in the pixels of another size."""
        size = np.array(shape[:2], float)
        if np.array_equal(size, self.size):
            return self
        ratio = size / self.size
        return Motion(size, self.matrix * ratio[:, None] / ratio, self.move * ratio)


def content(image: UInt8[np.ndarray, "H W C"]) -> Corners:
    """Corners (y, x) of what is not dark margin; equal corners if all is dark."""
    # Channel by channel, since NumPy is slow along a short last axis.
    return extent(functools.reduce(np.maximum, np.moveaxis(image, -1, 0)) > _DARK)


def extent(region: np.ndarray) -> Corners:
    """Corners (y, x) of a region; the far one is beyond it. Equal corners if there is none."""
    spans = [np.flatnonzero(region.any(axis=axis)) for axis in (1, 0)]
    if not len(spans[0]):
        return np.zeros(2), np.zeros(2)
    return np.array([s[0] for s in spans], float), np.array([s[-1] + 1 for s in spans], float)


def _interpolated(image: np.ndarray, matrix: np.ndarray, move: np.ndarray) -> np.ndarray:
    # Pillow asks where a pixel of the result comes from, with x before y.
    back = np.linalg.inv(matrix)
    (yy, yx), (xy, xx) = back
    y, x = -back @ move
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    wanted = (xx, xy, x, yx, yy, y)
    moved = picture.transform(
        picture.size, Image.Transform.AFFINE, wanted, Image.Resampling.BILINEAR
    )
    return np.asarray(moved).reshape(image.shape)
