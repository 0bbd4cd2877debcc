"""The unit of data that 4M learns from: values of one thing, seen in several ways."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from medjax.errors import UserError
from medjax.modalities.table import BOXES, EMBEDDINGS, IDS, IMAGE, LABELS, TEXT

UNKNOWN = 255  # the label of a pixel whose class is not known


class Box(NamedTuple):
    """Where a thing is, in parts of the image's height (y) and width (x), from its upper left."""

    label: str
    y1: float
    x1: float
    y2: float
    x2: float


@dataclasses.dataclass(frozen=True)
class Sample:
    """What is known of one thing.

    Attributes:
      id: unique within its source; shown in errors and tables.
      values: by name, each a value or what reads it: an image uint8 [H, W, C] of 1 or 3 channels,
        labels uint8 [H, W] (each pixel's class, or `UNKNOWN`), a text, boxes as a tuple of `Box`,
        ids int32 [n], or
        embeddings float32 [n, C]. Use `value`.
      extra: whatever else the source knows of it (plane, slab, ...).
      where: it comes from (file and line, or the dataset), for messages.
    """

    id: str
    values: Mapping[str, Any | Callable[[], Any]]
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    where: str = ""

    def value(self, name: str) -> Any:
        """A value, read anew each time that it is asked for; not to be written to.

        Raises:
          UserError: the sample has no such value, or its file was changed.
        """
        if name not in self.values:
            raise UserError(
                f"{self.where}: the sample {self.id!r} has no {name!r}; it has "
                f"{', '.join(self.values) or 'nothing'}."
            )
        value = self.values[name]
        return value() if callable(value) else value


def check_value(value: Any, content: str) -> None:
    """Raises UserError if a value is not of its content; that of other contents may be anything."""
    if content in _EXPECTED and not _fits(value, content):
        found = (
            f"{value.dtype} {list(value.shape)}"
            if isinstance(value, np.ndarray)
            else f"{value!r:.80}"
        )
        raise UserError(f"is {found}; expected {_EXPECTED[content]}")


_EXPECTED = {
    IMAGE: "uint8 [H, W, 1] or [H, W, 3]",
    LABELS: "uint8 [H, W]",
    TEXT: "a text",
    BOXES: "a tuple of boxes",
    IDS: "int32 [n]",
    EMBEDDINGS: "float32 [n, C]",
}


# Of arrays but images: dtype and dimensions.
_ARRAYS = {LABELS: (np.uint8, 2), IDS: (np.int32, 1), EMBEDDINGS: (np.float32, 2)}


def _fits(value: Any, content: str) -> bool:
    if content == TEXT:
        return isinstance(value, str)
    if content == BOXES:
        return isinstance(value, tuple) and all(isinstance(box, Box) for box in value)
    if not isinstance(value, np.ndarray):
        return False
    if content == IMAGE:
        return value.dtype == np.uint8 and value.ndim == 3 and value.shape[2] in (1, 3)
    dtype, dimensions = _ARRAYS[content]
    return value.dtype == dtype and value.ndim == dimensions


class SampleSource(Protocol):
    """Samples by index: of fixed length, safe to read from several threads, picklable.

    Attributes:
      names: the values that every sample has.
      faults: how many rows were left out when the source was opened, by reason.
    """

    names: tuple[str, ...]
    faults: Mapping[str, int]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...
