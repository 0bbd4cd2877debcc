"""The unit of data that training, evaluation and serving share."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Example:
    """One question about one image.

    Attributes:
      id: unique within its dataset; shown in errors and predictions.
      image: uint8 [height, width, 3], RGB, as read from its file (no resizing yet).
      prefix: what is asked, in PaliGemma's format ("caption en", "detect brain", "answer en ...").
      suffix: the true answer; empty when there is none to learn from or to score.
      image_key: names the image's content, so that equal keys mean equal pixels (for caches).
      extra: whatever else the dataset knows of the example (task, plane, slab, ...).
    """

    id: str
    image: np.ndarray
    prefix: str
    suffix: str = ""
    image_key: str = ""
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
