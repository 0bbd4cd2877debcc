"""Hugging Face folders of PaliGemma: config.json and safetensors, in one file or sharded.

Names are in `hf_names`, the config in `hf_config`, tokenizer and image processor in `hf_processor`.
"""

import contextlib
import json
import math
import os
import pathlib

import numpy as np

from medjax.checkpoints import hf_config, hf_names, hf_processor
from medjax.checkpoints.files import new_folder
from medjax.checkpoints.safetensors_files import Writer, open_file
from medjax.checkpoints.tensors import DTYPES, Checkpoint, LazyArray, check_specs, specs
from medjax.data.tokenizer import Tokenizer
from medjax.errors import UserError
from medjax.models.config import PaliGemmaConfig
from medjax.models.variants import PADDED_VOCAB_SIZE, VOCAB_SIZE

MARKERS = ("config.json",)
SHARD_BYTES = 5_000_000_000
_COMPARED_ROWS = 4096


def open_folder(path: str | os.PathLike[str]) -> Checkpoint:
    """A folder as transformers' `save_pretrained` writes it, 4.x and 5.x.

    Raises:
      UserError: files are missing or damaged; names or shapes are not those of the config; an
        output layer that is not tied to the embedding; features that medjax does not compute.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        raise UserError(f"{path} is no folder; a Hugging Face model is one, with a config.json")
    config = hf_config.read(path / "config.json")
    tensors = _tensors(path)
    heads = [tensors.pop(name) for name in hf_names.LM_HEADS if name in tensors]
    weights = hf_names.weights(config)
    shapes = specs(config)
    patch = config.img.patch_size
    expected = {
        name: weight.tensor_shape(shapes[ours], patch)
        for ours, weight in weights.items()
        for name in weight.names
    }
    _check_rows(path, config, tensors)
    check_specs(str(path), tensors, expected)
    for head in heads:
        _check_tied(path, tensors[hf_names.EMBEDDING], head)
    arrays = {
        ours: _stacked(weight, [tensors[name] for name in weight.names], shapes[ours])
        for ours, weight in weights.items()
    }
    tokenizer = path / hf_processor.SENTENCEPIECE
    return Checkpoint(str(path), config, arrays, tokenizer if tokenizer.is_file() else None)


def _tensors(path: pathlib.Path) -> dict[str, LazyArray]:
    """All tensors of a folder's safetensors, by canonical name."""
    index = path / "model.safetensors.index.json"
    if (path / "model.safetensors").is_file():
        found = list(open_file(path / "model.safetensors").items())
    elif index.is_file():
        try:
            places = json.loads(index.read_text())["weight_map"]
            shards = {shard: open_file(path / shard) for shard in sorted(set(places.values()))}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{index} is damaged: {error}") from error
        found = [item for shard in shards.values() for item in shard.items()]
        listed = {(name, shard) for name, shard in places.items()}
        stored = {(name, shard) for shard, arrays in shards.items() for name in arrays}
        if listed != stored:
            example = sorted(listed ^ stored)[0]
            raise UserError(
                f"{index} and its shards disagree about {len(listed ^ stored)} tensors, such as "
                f"{example[0]} in {example[1]}; copy the folder again"
            )
    else:
        raise UserError(
            f"{path} holds neither model.safetensors nor model.safetensors.index.json; save the "
            "model with transformers' save_pretrained first"
        )
    tensors: dict[str, LazyArray] = {}
    for name, array in found:
        name = hf_names.canonical(name)
        if name in tensors:
            raise UserError(f"{path}: {name} comes twice, in two spellings")
        tensors[name] = array
    return tensors


def _check_rows(path: pathlib.Path, config: PaliGemmaConfig, tensors: dict[str, LazyArray]) -> None:
    if hf_names.EMBEDDING in tensors:
        rows = tensors[hf_names.EMBEDDING].shape[0]
        if rows != config.llm.vocab_size:
            raise UserError(
                f"{path}: the embedding has {rows} rows, but text_config.vocab_size of config.json "
                f"says {config.llm.vocab_size}"
            )


def _check_tied(path: pathlib.Path, embedding: LazyArray, head: LazyArray) -> None:
    equal = embedding.shape == head.shape
    if equal:
        a, b = embedding.read(), head.read()
        starts = range(0, len(a), _COMPARED_ROWS)
        equal = all(
            np.array_equal(a[i : i + _COMPARED_ROWS], b[i : i + _COMPARED_ROWS]) for i in starts
        )
    if not equal:
        raise UserError(
            f"{path}: lm_head.weight differs from the embedding; medjax computes PaliGemma as it "
            "was published, with one table for both"
        )


def _stacked(
    weight: hf_names.Weight, tensors: list[LazyArray], shape: tuple[int, ...]
) -> LazyArray:
    dtype = np.result_type(*{tensor.dtype for tensor in tensors})

    def read() -> np.ndarray:
        if not weight.stacked:
            return weight.from_tensor(tensors[0].read())
        out = np.empty(shape, dtype)
        for layer, tensor in enumerate(tensors):
            out[layer] = weight.from_tensor(tensor.read())
        return out

    return LazyArray(shape, dtype, read)


def padded(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with Gemma's vocabulary padded as the official folders' (257,216 rows)."""
    if checkpoint.config.llm.vocab_size == VOCAB_SIZE:
        return checkpoint.with_vocabulary(PADDED_VOCAB_SIZE)
    return checkpoint


def check_exportable(config: PaliGemmaConfig, tokenizer: Tokenizer) -> None:
    """Raises UserError if `write_folder` would, whatever the weights will be."""
    hf_config.check(config)
    hf_processor.read_pieces(tokenizer)


def write_folder(
    checkpoint: Checkpoint,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
    copy_from: pathlib.Path | None = None,
) -> None:
    """Writes a folder that transformers loads with no key missing and none unexpected.

    Official vocabularies get the official padding (`padded`). One parameter is in memory at a time.

    Args:
      checkpoint: what to write; its tokenizer becomes tokenizer and processor files.
      path: of the folder.
      shard_bytes: size from which weights are split over several files.
      copy_from: a Hugging Face folder whose tokenizer and processor files are taken instead.

    Raises:
      UserError: transformers has no such model, or `path` may not be overwritten.
    """
    checkpoint = padded(checkpoint)
    config = checkpoint.config
    processor = hf_processor.load(checkpoint, copy_from)
    dtypes = [array.dtype for array in checkpoint.arrays.values()]
    most = max(set(dtypes), key=dtypes.count)
    model_config = hf_config.to_dict(
        config,
        dtype=next((name for name, dtype in DTYPES.items() if dtype == most), str(most)),
        image_token_id=processor.image_token_id,
        special_ids=processor.special_ids,
    )
    with new_folder(path, markers=MARKERS, overwrite=overwrite) as folder:
        _write_json(folder / "config.json", model_config)
        _write_json(folder / "generation_config.json", dict(processor.special_ids))
        processor.write(folder, config)
        _write_weights(checkpoint, folder, shard_bytes)


def _write_json(path: pathlib.Path, data: dict) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n")


def _write_weights(checkpoint: Checkpoint, folder: pathlib.Path, shard_bytes: int) -> None:
    patch = checkpoint.config.img.patch_size
    weights = hf_names.weights(checkpoint.config)
    tensors = {}
    for ours, weight in weights.items():
        array = checkpoint.arrays[ours]
        for name in weight.names:
            tensors[hf_names.official(name)] = (
                weight.tensor_shape(array.shape, patch),
                array.dtype,
            )
    with contextlib.ExitStack() as stack:
        writers: dict[str, Writer] = {}
        for file, part in _shards(folder, tensors, shard_bytes).items():
            writer = stack.enter_context(Writer(folder / file, part))
            writers |= dict.fromkeys(part, writer)
        for ours, weight in weights.items():
            values = checkpoint.arrays[ours].read()
            for layer, name in enumerate(weight.names):
                one = values[layer] if weight.stacked else values
                theirs = hf_names.official(name)
                writers[theirs].write(theirs, weight.to_tensor(one, patch))
            del values, one  # before the next one is read


def _shards(folder: pathlib.Path, tensors: dict, shard_bytes: int) -> dict[str, dict]:
    """Tensors by the file that they go to; writes the index if there are several files."""

    def size(name: str) -> int:
        shape, dtype = tensors[name]
        return math.prod(shape) * dtype.itemsize

    groups: list[dict] = [{}]
    filled = 0
    for name, spec in tensors.items():
        if groups[-1] and filled + size(name) > shard_bytes:
            groups.append({})
            filled = 0
        groups[-1][name] = spec
        filled += size(name)
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    files = {
        f"model-{i:05d}-of-{len(groups):05d}.safetensors": group
        for i, group in enumerate(groups, 1)
    }
    index = {
        "metadata": {"total_size": sum(map(size, tensors))},
        "weight_map": {name: file for file, group in files.items() for name in group},
    }
    _write_json(folder / "model.safetensors.index.json", index)
    return files
