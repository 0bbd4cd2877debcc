"""What the command line gives a trained 4M: files, texts and boxes, read as data are."""

import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from medjax.data.faults import BadExample
from medjax.data.image_files import is_nifti
from medjax.data.samples import Sample
from medjax.data.samples import values as values_lib
from medjax.data.samples.open import limits_of
from medjax.errors import UserError
from medjax.modalities.table import IMAGE, LABELS, TEXT, Modality

_FILES = (IMAGE, LABELS)


def read_given(
    modality: Modality, text: str, part: Mapping[str, Any], channels: Mapping[str, int]
) -> Sample:
    """A sample with the one value that a modality is made of.

    Args:
      text: a file's path, of images and labels; a text itself; of boxes JSON as in a data's line,
        or a file of it; of ids the same, or a .npy file. Paths may begin with ~.
      part: of files of several images: `axis`, `slice`, `frame` and `window`.
      channels: number of classes of labels, by modality.

    Raises:
      UserError: no such file, or not what the modality is made of.
    """
    try:
        found = {**part, modality.value: _value(modality.content, text)}
        limits = limits_of([modality.value], [modality], channels)[modality.value]
        value = values_lib.parse(found, modality.value, limits, pathlib.Path())
    except BadExample as error:
        told = " On the command line these are --axis, --slice, --frame and --window."
        hint = told if modality.content in _FILES else ""
        raise UserError(f"given {modality.name}: {error}{hint}") from error
    if isinstance(value, values_lib.ValueFile):
        try:
            value = values_lib.read(value)
        except BadExample as error:
            raise UserError(f"given {modality.name}: {error}") from error
    return Sample(modality.name, {modality.value: value}, where="what is given")


def check_part(part: Mapping[str, Any], given: Mapping[str, str], files: Iterable[str]) -> None:
    """Refuses what says which part of a file is meant, where no file has such parts.

    Args:
      given: what is given, by modality. files: the modalities of which it is a file.

    Raises:
      UserError: options that would do nothing.
    """
    paths = [pathlib.Path(given[name]) for name in files]
    volumes = any(map(is_nifti, paths))
    idle = [name for name in part if not (volumes if name in ("axis", "slice") else paths)]
    if idle:
        raise UserError(
            f"{' and '.join(f'--{name}' for name in idle)} would do nothing: nothing given is "
            f"{'a NIfTI volume' if paths else 'an image file'}; leave it out"
        )


def is_file(modality: Modality) -> bool:
    """Whether a modality's value is a file with images."""
    return modality.content in _FILES


def _value(content: str, text: str) -> Any:
    if content == TEXT:
        return text
    path = pathlib.Path(text).expanduser()
    if content in _FILES or path.suffix == ".npy":
        return str(path)
    try:
        return json.loads(path.read_text() if path.suffix == ".json" else text)
    except (OSError, ValueError) as error:
        raise BadExample(
            "no JSON", f"{text!r:.80} is neither JSON nor a file of it ({error})."
        ) from error
