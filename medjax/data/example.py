"""The unit of data that training, evaluation and serving share."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8

# Key of `extra`: the name of the source, where examples of several are asked together and their ids
# begin with it.
SOURCE = "source_name"


@dataclasses.dataclass(frozen=True)
class Example:
    """One question about one image.

    Attributes:
      id: unique within its dataset; shown in errors and predictions.
      pixels: the image, or what reads it; use `image`.
      prefix: what is asked, in PaliGemma's format ("caption en", "detect brain", "answer en ...").
      suffix: the true answer; empty when there is none to learn from or to score.
      image_key: names the image's content, so that equal keys mean equal pixels (for caches).
      extra: whatever else the dataset knows of the example (task, plane, slab, ...).
      where: it comes from (file and line, or the dataset), for messages.
    """

    id: str
    pixels: UInt8[np.ndarray, "height width 3"] | Callable[[], UInt8[np.ndarray, "height width 3"]]
    prefix: str
    suffix: str = ""
    image_key: str = ""
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    where: str = ""

    @property
    def image(self) -> UInt8[np.ndarray, "height width 3"]:
        """RGB, as in its file (no resizing yet); read anew each time that it is asked for."""
        return self.pixels() if callable(self.pixels) else self.pixels
