"""Checkpoints of apple/ml-4m: config.json and model.safetensors, read and written.

Names are in `fourm_names`, the config in `fourm_config`. The original keeps its WordPiece file
elsewhere; here it lies beside them, if there is one.
"""

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping

import ml_dtypes
import numpy as np

from medjax.checkpoints import fourm_config, fourm_names, wordpiece_file
from medjax.checkpoints.files import new_folder
from medjax.checkpoints.fourm_names import Piece
from medjax.checkpoints.safetensors_files import Writer, metadata, open_file
from medjax.checkpoints.tensors import Checkpoint, LazyArray, check_specs, specs
from medjax.errors import UserError
from medjax.modalities.table import BOXES, TEXT
from medjax.models.fourm import MODALITIES, FourMConfig, Modality

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
WORDPIECE = "wordpiece.json"
# Sines of angles up to 511, whose last float32 digits differ between libraries.
_POSITIONS_TOLERANCE = 1e-4
_SIDES = ("encoder", "decoder")


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether there is a config.json with what every 4M model's has."""
    file = pathlib.Path(path) / CONFIG
    try:
        return file.is_file() and fourm_config.is_one(json.loads(file.read_text()))
    except (OSError, ValueError):
        return False


def open_folder(
    path: str | os.PathLike[str],
    config: FourMConfig | None = None,
    modalities: Mapping[str, Modality] = MODALITIES,
) -> Checkpoint[FourMConfig]:
    """A folder with an official config.json and model.safetensors.

    Args:
      config: of the model, with which config.json must agree; what that says if None. Whether
        output layers are tied to the token embeddings is seen from the weights either way.
      modalities: the table in which those of config.json are looked up.

    Raises:
      UserError: files are missing or damaged, names or shapes are not those of the config, or
        tensors differ that the config says are one.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        raise UserError(f"{path} is no folder; a 4M model is one, with a {CONFIG} and a {WEIGHTS}")
    if config is None:
        config = read_config(path, modalities)
    elif (path / CONFIG).exists():
        fourm_config.check(config, path / CONFIG)
    file = path / WEIGHTS
    arrays = open_file(file)
    # A tensor that two modules share may be written once, and its other name noted.
    twins = {name: arrays[kept] for name, kept in metadata(file).items() if kept in arrays}
    arrays = twins | arrays
    text = path / WORDPIECE if (path / WORDPIECE).is_file() else None
    if text is not None:
        wordpiece_file.check(config, text, str(path))
    return dataclasses.replace(from_tensors(arrays, config, str(file)), tokenizer=text)


def read_config(
    path: str | os.PathLike[str], modalities: Mapping[str, Modality] = MODALITIES
) -> FourMConfig:
    """The model of a folder; see `open_folder`.

    A text's vocabulary is its tokenizer's, whose size the weights say and config.json does not.
    """
    path = pathlib.Path(path)
    config, arrays = fourm_config.read(path / CONFIG, modalities), open_file(path / WEIGHTS)

    def sized(modality: Modality) -> Modality:
        names = [f"{side}_embeddings.{modality.name}.token_emb.weight" for side in _SIDES]
        rows = [arrays[name].shape[0] for name in names if name in arrays]
        if modality.content not in (TEXT, BOXES) or not rows:
            return modality
        return dataclasses.replace(modality, vocab_size=rows[0])

    return dataclasses.replace(config, modalities=tuple(map(sized, config.modalities)))


def from_tensors(
    arrays: Mapping[str, LazyArray], config: FourMConfig, where: str
) -> Checkpoint[FourMConfig]:
    """The checkpoint that official tensors are; see `open_folder`."""
    config = dataclasses.replace(config, tie_embeddings=_tied(arrays, config))
    tensors, constants = fourm_names.tensors(config), fourm_names.constants(config)
    shapes = specs(config)
    expected = {name: tensor.shape(shapes) for name, tensor in tensors.items()}
    expected |= {name: value.shape for name, value in constants.items()}
    check_specs(where, arrays, expected)
    for name, value in constants.items():
        tolerance = _POSITIONS_TOLERANCE + float(ml_dtypes.finfo(arrays[name].dtype).eps)
        found = arrays[name].read().astype(np.float32)
        if not np.allclose(found, value, rtol=0, atol=tolerance):
            raise UserError(f"{where}: {name} is not what 4M computes, and medjax cannot keep it")
    places: dict[Piece, tuple[str, int]] = {}
    for name, tensor in tensors.items():
        for index, piece in enumerate(tensor.pieces):
            first, _ = places.setdefault(piece, (name, index))
            if first != name and not _equal(arrays[first], arrays[name]):
                raise UserError(f"{where}: {first} and {name} are one in this model, and differ")

    def read(piece: Piece) -> np.ndarray:
        name, index = places[piece]
        return tensors[name].part(arrays[name].read(), index, shapes)

    def parameter(name: str, shape: tuple[int, ...]) -> LazyArray:
        if Piece(name) in places:
            dtype = arrays[places[Piece(name)][0]].dtype
            return LazyArray(shape, dtype, lambda: read(Piece(name)))
        layers = [Piece(name, layer) for layer in range(shape[0])]
        dtype = np.result_type(*{arrays[places[piece][0]].dtype for piece in layers})
        return LazyArray(shape, dtype, lambda: np.stack([read(piece) for piece in layers]))

    return Checkpoint(where, config, {name: parameter(name, s) for name, s in shapes.items()})


def _tied(arrays: Mapping[str, LazyArray], config: FourMConfig) -> bool:
    """Whether every output layer is its token embedding."""
    pairs = fourm_names.output_layers(config)
    return all(a in arrays and b in arrays and _equal(arrays[a], arrays[b]) for a, b in pairs)


def _equal(a: LazyArray, b: LazyArray) -> bool:
    return a.shape == b.shape and np.array_equal(a.read(), b.read())


def to_tensors(checkpoint: Checkpoint[FourMConfig]) -> Iterator[tuple[str, np.ndarray]]:
    """All official tensors of a checkpoint by name; a parameter is read once."""
    tensors = fourm_names.tensors(checkpoint.config)
    together: dict[tuple[str, ...], list[str]] = {}
    for name, tensor in tensors.items():
        together.setdefault(tuple(piece.parameter for piece in tensor.pieces), []).append(name)
    for parameters, names in together.items():
        arrays = {parameter: checkpoint.arrays[parameter].read() for parameter in parameters}
        for name in names:
            pieces = tensors[name].pieces
            yield name, tensors[name].join([p.of(arrays[p.parameter]) for p in pieces])
    yield from fourm_names.constants(checkpoint.config).items()


def write_folder(
    checkpoint: Checkpoint[FourMConfig], path: str | os.PathLike[str], *, overwrite: bool = False
) -> None:
    """Writes a folder that the original loads with no key missing and none unexpected.

    Raises:
      UserError: the original has no such model, or `path` may not be overwritten.
    """
    config, arrays = checkpoint.config, checkpoint.arrays
    text = json.dumps(fourm_config.to_dict(config), indent=2) + "\n"
    shapes = specs(config)
    announced = {
        name: (t.shape(shapes), np.result_type(*{arrays[p.parameter].dtype for p in t.pieces}))
        for name, t in fourm_names.tensors(config).items()
    }
    announced |= {n: (v.shape, v.dtype) for n, v in fourm_names.constants(config).items()}
    with new_folder(path, markers=(CONFIG,), overwrite=overwrite) as folder:
        (folder / CONFIG).write_text(text)
        with Writer(folder / WEIGHTS, announced) as writer:
            for name, array in to_tensors(checkpoint):
                writer.write(name, array)
        if checkpoint.tokenizer is not None:
            shutil.copyfile(checkpoint.tokenizer, folder / WORDPIECE)
