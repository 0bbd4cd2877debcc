"""Masks in files of answers: what a row names, and how far its masks are the true ones."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from medjax.data.faults import BadExample
from medjax.data.image_files import image_file
from medjax.data.label_files import read_labels
from medjax.data.samples.sample import UNKNOWN
from medjax.errors import UserError
from medjax.evaluation.metrics import masks

Mask = Bool[np.ndarray, "height width"]
_PART = ("axis", "slice", "frame")


@dataclasses.dataclass(frozen=True)
class MaskFiles:
    """The files of one mask.

    Attributes:
      where: they are named, for messages: file and line.
      files: one file of labels, under ""; or a file a class, by the name of the class.
      part: which slice of a volume is meant, as `image_files.image_file` reads it.
    """

    where: str
    files: Mapping[str, Path]
    part: Mapping[str, Any]


def mask_files(value: Any, row: Mapping[str, Any], folder: Path, where: str) -> MaskFiles | None:
    """Reads what a row says of a mask; None if nothing.

    Args:
      value: the path of an image whose values are classes; a list of paths, one for each class, or
        an object {class: path}, whose images are of the class wherever they are not 0. In a table
        lists and objects are JSON.
      row: "axis", "slice" and "frame" say which part of a volume is meant.
      folder: that paths start from.
      where: the row is, for messages.

    Raises:
      UserError: it is none of these.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise UserError(f"{where}: the mask {value!r:.80} is not JSON ({error}).") from error
    if value is None or value == "":
        return None
    if isinstance(value, str):
        value = {"": value}
    elif isinstance(value, list):
        value = {str(number): path for number, path in enumerate(value, start=1)}
    paths = list(value.values()) if isinstance(value, Mapping) else []
    if not paths or not all(isinstance(path, str) and path for path in paths):
        raise UserError(
            f"{where}: a mask is the path of an image, a list of paths or an object of them by "
            f"class, not {value!r:.80}."
        )
    part = {key: _number(row[key]) for key in _PART if row.get(key) not in (None, "")}
    files = {str(name): folder / Path(path).expanduser() for name, path in value.items()}
    return MaskFiles(where, files, part)


def _number(value: Any) -> Any:
    """Whole numbers of tables, which are texts."""
    return int(value) if isinstance(value, str) and value.strip().isdecimal() else value


def compared(made: MaskFiles | None, true: MaskFiles) -> tuple[dict[str, float], str, str]:
    """Compares a system's masks with the true ones.

    Of files of labels, 0 is no class, and 255 a class that is not known: such pixels of the true
    labels count nowhere. A file of nothing but 0 and 255 is a mask of one class, "1".

    Args:
      made: None if the system made none.
      true: its classes are those of `made` if they have the same names: the numbers of labels, the
        places of a list from 1 on, or the keys of an object.

    Returns:
      What `extra` says of them (`metrics.masks.facts`: means over the classes that either shows),
      and what the system's and the true masks show, such as "mask of 1, 2"; "" if there is none.

    Raises:
      UserError: a file is missing or unreadable, or sizes differ; it names the file and the row.
    """
    truth, known = _read(true)
    if made is None:  # that scores nothing, even where there is nothing to find
        return masks.facts(dict.fromkeys(truth or ("",), 0.0), truth), "", _words(truth)
    guess, all_of_it = _read(made)
    if all_of_it.shape != known.shape:
        raise UserError(
            f"{made.where}: the mask {_some(made)} has {_size(all_of_it)} pixels, but the true "
            f"one, {_some(true)} ({true.where}), {_size(known)}: both must be of one size."
        )
    nothing = np.zeros(known.shape, bool)
    guess = {name: mask & known for name, mask in guess.items() if (mask & known).any()}
    of_classes = {
        name: float(masks.dice(guess.get(name, nothing).ravel(), truth.get(name, nothing).ravel()))
        for name in dict.fromkeys([*truth, *guess])
    }
    return masks.facts(of_classes, truth), _words(guess), _words(truth)


def _read(mask: MaskFiles) -> tuple[dict[str, Mask], Mask]:
    """The classes that are there, and which pixels' classes are known."""
    read = {name: _labels(mask, path) for name, path in mask.files.items()}
    known = np.ones(next(iter(read.values())).shape, bool)
    for name, labels in read.items():
        if labels.shape != known.shape:
            raise UserError(
                f"{mask.where}: {mask.files[name]} has {_size(labels)} pixels, but "
                f"{_some(mask)} {_size(known)}: all classes' masks must be of one size."
            )
    if "" not in read:
        return {name: labels > 0 for name, labels in read.items() if labels.any()}, known
    labels = read[""]
    values = np.unique(labels).tolist()
    if UNKNOWN in values and not set(values) <= {0, UNKNOWN}:
        known = labels != UNKNOWN
    elif UNKNOWN in values:
        labels, values = labels // UNKNOWN, [0, 1]
    return {str(v): labels == v for v in values if v not in (0, UNKNOWN)}, known


def _labels(mask: MaskFiles, path: Path) -> UInt8[np.ndarray, "height width"]:
    try:
        return read_labels(image_file(path, mask.part))
    except BadExample as error:
        raise UserError(f"{mask.where}: {error}") from error


def _words(classes: Iterable[str]) -> str:
    return f"mask of {', '.join(classes) or 'nothing'}"


def _some(mask: MaskFiles) -> str:
    return str(next(iter(mask.files.values())))


def _size(pixels: np.ndarray) -> str:
    return " x ".join(map(str, pixels.shape))
