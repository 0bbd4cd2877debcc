"""Values in a row of JSON: how each is written, by the content of the modality that reads it."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32

from medjax.data.faults import BadExample
from medjax.data.image_files import ImageFile, image_file, read_image
from medjax.data.json_lines_file import text_of, value_of
from medjax.data.label_files import read_labels
from medjax.data.samples.sample import UNKNOWN, Box
from medjax.modalities.table import BOXES, EMBEDDINGS, IDS, IMAGE, LABELS, TEXT


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a value may hold.

    Attributes:
      content: see `modalities.table`.
      ids: ids are less than this; of labels, the number of classes. None: as the content allows.
      length: ids that there must be; None where any number may be.
    """

    content: str
    ids: int | None = None
    length: int | None = None


@dataclasses.dataclass(frozen=True)
class ValueFile:
    """A value that lies in a file of its own."""

    file: ImageFile
    limits: Limits

    @property
    def path(self) -> Path:
        """Of the file."""
        return self.file.path


def parse(row: dict[str, Any], name: str, limits: Limits, root: Path) -> Any:
    """A value of a row, or the `ValueFile` that it is to be read from.

    Images and labels are paths from `root`; see `image_files.image_file` for the keys that say
    which part is meant. Boxes are [{"box": [y1, x1, y2, x2], "label": "..."}, ...], in parts of the
    image's height and width; ids a list or the path of a .npy file; embeddings such a path. A value
    of another content is what JSON says.

    Raises:
      BadExample: the row has no such value, or one that cannot be.
    """
    reader = _PARSERS.get(limits.content)
    return reader(row, name, limits, root) if reader else value_of(row, name)


def read(value: ValueFile) -> np.ndarray:
    """Reads a file.

    Raises:
      BadExample: it is missing or unreadable, or holds what the limits forbid.
    """
    return _READERS[value.limits.content](value.file, value.limits)


def _file(row: dict[str, Any], name: str, limits: Limits, root: Path) -> ValueFile:
    return ValueFile(image_file(root / text_of(row, name), row), limits)


def _text(row: dict[str, Any], name: str, limits: Limits, root: Path) -> str:
    del limits, root
    return text_of(row, name)


def _boxes(row: dict[str, Any], name: str, limits: Limits, root: Path) -> tuple[Box, ...]:
    del limits, root
    objects = value_of(row, name)
    if not isinstance(objects, list) or not all(isinstance(o, dict) for o in objects):
        raise BadExample(
            "wrong type",
            f'"{name}" is {objects!r:.80}: write [{{"box": [y1, x1, y2, x2], "label": "..."}}, '
            "...], in parts of the image's height and width.",
        )
    return tuple(_box(found, name) for found in objects)


def _box(found: dict[str, Any], name: str) -> Box:
    try:
        label, box = text_of(found, "label"), value_of(found, "box")
    except BadExample as fault:
        raise BadExample(fault.reason, f'"{name}": {fault}') from fault
    if not label.strip():
        raise BadExample("empty label", f'"{name}" has a box without a label.')
    numbers = isinstance(box, list) and all(
        isinstance(c, int | float) and not isinstance(c, bool) for c in box
    )
    if not numbers or len(box) != 4:
        raise BadExample("wrong type", f'"{name}" has a box {box!r:.80}: write [y1, x1, y2, x2].')
    y1, x1, y2, x2 = map(float, box)
    if not (0 <= y1 <= y2 <= 1 and 0 <= x1 <= x2 <= 1):
        raise BadExample(
            "bad box",
            f'"{name}" has a box {box}: its order is y1, x1, y2, x2, from 0 to 1, in parts of the '
            "image's height and width.",
        )
    return Box(label, y1, x1, y2, x2)


def _ids(
    row: dict[str, Any], name: str, limits: Limits, root: Path
) -> ValueFile | Int32[np.ndarray, "n"]:
    ids = value_of(row, name)
    if isinstance(ids, str):
        return ValueFile(ImageFile(root / text_of(row, name)), limits)
    if not isinstance(ids, list) or not all(type(i) is int for i in ids):
        raise BadExample(
            "wrong type", f'"{name}" is {ids!r:.80}: write a list of ids or the path of a .npy.'
        )
    try:
        return _checked_ids(np.array(ids, np.int64), limits, f'"{name}"')
    except OverflowError as error:
        raise BadExample("bad id", f'"{name}" holds a number beyond every vocabulary.') from error


def _read_image(file: ImageFile, limits: Limits) -> np.ndarray:
    del limits
    image = read_image(file)
    # Grey is kept as one channel: a third of the memory, and of the work of resizing.
    grey = (image[..., :1] == image).all()
    return np.ascontiguousarray(image[..., :1]) if grey else image


def _read_labels(file: ImageFile, limits: Limits) -> np.ndarray:
    labels = read_labels(file)
    known = labels[labels != UNKNOWN]
    if known.size < labels.size and not known.any():
        raise BadExample(
            "bad label",
            f"The labels {file.path} hold 0 and {UNKNOWN} alone, and {UNKNOWN} stands for what is "
            f"not known. If {UNKNOWN} is meant as a class, save it as its number, such as 1.",
        )
    if limits.ids is not None and known.size and known.max() >= limits.ids:
        raise BadExample(
            "bad label",
            f"The labels {file.path} hold the class {known.max()}; there are classes 0 to "
            f"{limits.ids - 1}, and {UNKNOWN} for what is unknown.",
        )
    return labels


def _read_ids(file: ImageFile, limits: Limits) -> Int32[np.ndarray, "n"]:
    ids = _read_npy(file, "ids")
    if not np.issubdtype(ids.dtype, np.integer):
        raise BadExample("unreadable ids", f"{file.path} is no .npy file of whole numbers.")
    return _checked_ids(ids.reshape(-1), limits, str(file.path))


def _read_embeddings(file: ImageFile, limits: Limits) -> Float32[np.ndarray, "n C"]:
    del limits
    vectors = _read_npy(file, "embeddings")
    if not np.issubdtype(vectors.dtype, np.floating) or vectors.ndim != 2:
        raise BadExample("unreadable embeddings", f"{file.path} holds no floats [n, width].")
    if not np.isfinite(vectors).all():
        raise BadExample("unreadable embeddings", f"{file.path} holds numbers that are not finite.")
    return vectors.astype(np.float32)


def _read_npy(file: ImageFile, what: str) -> np.ndarray:
    if not file.path.is_file():
        raise BadExample(f"missing {what}", f"The {what} {file.path} do not exist.")
    try:
        array = np.load(file.path, allow_pickle=False)
    # A broken file makes NumPy raise nearly anything; none of it is lost, all of it is named.
    except Exception as error:
        raise BadExample(
            f"unreadable {what}",
            f"The {what} {file.path} can't be read ({type(error).__name__}: {error}).",
        ) from error
    if not isinstance(array, np.ndarray):
        raise BadExample(f"unreadable {what}", f"{file.path} is no .npy file.")
    return array


def _checked_ids(ids: np.ndarray, limits: Limits, what: str) -> Int32[np.ndarray, "n"]:
    most = limits.ids if limits.ids is not None else math.inf
    bad = ids[(ids < 0) | (ids >= most)]
    if bad.size:
        raise BadExample("bad id", f"{what} holds the id {bad[0]}; ids go from 0 to {most - 1}.")
    if limits.length is not None and len(ids) != limits.length:
        raise BadExample("bad length", f"{what} holds {len(ids)} ids instead of {limits.length}.")
    return ids.astype(np.int32)


_PARSERS: dict[str, Callable[[dict[str, Any], str, Limits, Path], Any]] = {
    IMAGE: _file,
    LABELS: _file,
    TEXT: _text,
    BOXES: _boxes,
    IDS: _ids,
    EMBEDDINGS: _file,
}
_READERS: Mapping[str, Callable[[ImageFile, Limits], np.ndarray]] = {
    IMAGE: _read_image,
    LABELS: _read_labels,
    IDS: _read_ids,
    EMBEDDINGS: _read_embeddings,
}
