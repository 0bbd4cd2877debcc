"""Reduced copies of images, as a page or a table of predictions embeds them.

However many images there are, a page must still open: what all of them may take is divided by
their number, and an image that needs more than its share is made smaller, and coarser, until it
fits.
"""

import base64
import dataclasses
import functools
import io
from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

MAX_SIDE = 448
# Of all thumbnails of a page, which base64 makes a third longer: with its texts, about 60 MB.
PAGE_BYTES = 40_000_000
# Of all rows of a table, each with its image: what a reader holds that unpacks the whole column.
TABLE_BYTES = 500_000_000

_QUALITY = 90
# Longer side in pixels and JPEG quality, each step about two thirds of the one before in bytes.
_STEPS = ((448, 90), (384, 85), (320, 82), (256, 80), (224, 75), (192, 70), (160, 65), (128, 60),
          (96, 55), (64, 50), (48, 40))  # fmt: skip
_PROGRESS_FROM = 200  # images


@dataclasses.dataclass(frozen=True)
class Thumbnail:
    """A reduced image in its file format.

    Attributes:
      data: of the file.
      format: "png" or "jpeg".
      width, height: in pixels.
    """

    data: bytes
    format: str
    width: int
    height: int

    @functools.cached_property
    def uri(self) -> str:
        """For a page: the file as a data URI."""
        return f"data:image/{self.format};base64,{base64.b64encode(self.data).decode()}"


def thumbnail(
    pixels: UInt8[np.ndarray, "H W 3"], max_side: int = MAX_SIDE, quality: int = _QUALITY
) -> Thumbnail:
    """The smaller of PNG and JPEG, grey where the image is.

    Args:
      pixels: RGB.
      max_side: longer side in pixels, at most; the proportions are kept.
      quality: of JPEG, 1 to 95.
    """
    image = Image.fromarray(pixels)
    if (pixels == pixels[..., :1]).all():
        image = image.convert("L")
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    files = {}
    for format, options in (
        ("png", {"optimize": True}),
        ("jpeg", {"quality": quality, "subsampling": 0}),
    ):
        data = io.BytesIO()
        image.save(data, format, **options)
        files[format] = data.getvalue()
    format = min(files, key=lambda name: len(files[name]))
    return Thumbnail(files[format], format, *image.size)


def thumbnails(
    images: Mapping[str, UInt8[np.ndarray, "H W 3"]], rows: Mapping[str, int]
) -> dict[str, Thumbnail]:
    """Thumbnails of so many images, each read once.

    Args:
      images: by key.
      rows: the keys wanted, and how many rows of a table show each.

    Returns:
      By key, in the order of `rows`. Equal arguments give equal bytes.

    Raises:
      ValueError: an image is missing.
    """
    missing = [key for key in rows if key not in images]
    if missing:
        raise ValueError(f"{len(missing)} images are missing, such as {missing[0]!r}")
    if not rows:
        return {}
    share = min(PAGE_BYTES // len(rows), TABLE_BYTES // sum(rows.values()))
    bar = tqdm(rows, desc="thumbnails", unit="image", disable=len(rows) < _PROGRESS_FROM)
    return {key: _fitting(images[key], share) for key in bar}


def _fitting(pixels: UInt8[np.ndarray, "H W 3"], share: int) -> Thumbnail:
    """The largest thumbnail of at most `share` bytes, or the smallest there is."""
    for side, quality in _STEPS:
        made = thumbnail(pixels, side, quality)
        if len(made.data) <= share:
            break
    return made
