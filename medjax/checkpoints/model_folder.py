"""medjax's own model folders: one model of any family, its adapter, or both.

    model.json           sizes, as `families.to_dict`; of 4M all entries of its modalities, too
    params.safetensors   parameters by medjax's names, layers stacked
    lora.json            an adapter's config and its base's path and content hash
    lora.safetensors     the adapter, float32
    tokenizer.model      sentencepiece; of 4M wordpiece.json

A folder without params.safetensors holds an adapter alone, whose base lora.json names.
"""

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from medjax.checkpoints import adapters, wordpiece_file
from medjax.checkpoints.adapters import Adapter, Base
from medjax.checkpoints.files import content_hash, new_folder
from medjax.checkpoints.safetensors_files import open_file, write_file
from medjax.checkpoints.tensors import Checkpoint, check_specs, lazy, specs
from medjax.errors import UserError
from medjax.models import families
from medjax.models.families import ModelConfig
from medjax.models.fourm import FourMConfig
from medjax.models.lora import LoRAConfig

__all__ = [
    "content_hash", "has_adapter", "has_params", "open_adapter", "open_model", "own_tokenizer",
    "read_config", "save_model", "write_folder",
]  # fmt: skip

MODEL = "model.json"
PARAMS = "params.safetensors"
LORA = "lora.json"
LORA_PARAMS = "lora.safetensors"


def save_model(
    path: str | os.PathLike[str],
    config: ModelConfig,
    named: Mapping[str, Any],
    *,
    tokenizer_path: str | os.PathLike[str] | None = None,
    lora_config: LoRAConfig | None = None,
    base: Base | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a folder, whole or not at all.

    Args:
      path: of the folder.
      named: what `params.flatten(model)` gives, with adapters or without; or adapters alone.
      tokenizer_path: file of its text tokenizer to keep with it.
      lora_config: of the adapters; needed if there are any.
      base: what the adapters were trained on; needed if `named` holds adapters alone.

    Raises:
      UserError: `named` is not a whole model or a whole adapter, or `path` may not be overwritten.
    """
    weights, low_rank = adapters.split(named)
    checkpoint = adapter = None
    tokenizer = None if tokenizer_path is None else pathlib.Path(tokenizer_path)
    if weights or not low_rank:
        arrays = {name: lazy(array) for name, array in weights.items()}
        checkpoint = Checkpoint("the model", config, arrays)
    if bool(low_rank) != (lora_config is not None):
        raise UserError("a model with adapters is saved with their config, one without is not")
    if lora_config is not None:
        if checkpoint is None and base is None:
            raise UserError("an adapter that is saved alone needs the base that it belongs to")
        arrays = {name: lazy(array) for name, array in low_rank.items()}
        adapter = Adapter("the model's adapter", lora_config, arrays, base)
    write_folder(path, config, checkpoint, adapter, tokenizer=tokenizer, overwrite=overwrite)


def write_folder(
    path: str | os.PathLike[str],
    config: ModelConfig,
    checkpoint: Checkpoint | None,
    adapter: Adapter | None = None,
    *,
    tokenizer: pathlib.Path | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a folder from lazily read arrays, one in memory at a time; see `save_model`."""
    if adapter is not None:
        adapter.check(config)
    if tokenizer is not None and isinstance(config, FourMConfig):
        wordpiece_file.check(config, tokenizer, "the model")
    with new_folder(path, markers=(MODEL,), overwrite=overwrite) as folder:
        _write_json(folder / MODEL, families.to_dict(config))
        if checkpoint is not None:
            write_file(folder / PARAMS, checkpoint.arrays)
        if adapter is not None:
            base = None if adapter.base is None else dataclasses.asdict(adapter.base)
            _write_json(folder / LORA, {**dataclasses.asdict(adapter.config), "base": base})
            write_file(folder / LORA_PARAMS, adapter.arrays)
        if tokenizer is not None:
            shutil.copyfile(tokenizer, folder / families.of(config).tokenizer)


def _write_json(path: pathlib.Path, data: dict) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n")


def has_params(path: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a model's parameters."""
    return (pathlib.Path(path) / PARAMS).is_file()


def has_adapter(path: str | os.PathLike[str]) -> bool:
    """Whether a folder holds an adapter of medjax."""
    return (pathlib.Path(path) / LORA).is_file()


def read_config(path: str | os.PathLike[str]) -> Any:
    """The model of a folder: its PaliGemmaConfig or FourMConfig.

    Raises:
      UserError: it has no readable model.json.
    """
    return families.load(pathlib.Path(path) / MODEL)


def own_tokenizer(path: str | os.PathLike[str], config: ModelConfig) -> pathlib.Path | None:
    """The file of a folder's text tokenizer, if it has one."""
    file = pathlib.Path(path) / families.of(config).tokenizer
    return file if file.is_file() else None


def open_model(path: str | os.PathLike[str]) -> Checkpoint:
    """The plain model of a folder; an adapter beside it is left to `open_adapter`.

    Raises:
      UserError: files are missing or damaged, or differ from model.json.
    """
    path = pathlib.Path(path)
    config = read_config(path)
    if not has_params(path):
        raise UserError(f"{path} has no {PARAMS}; it holds an adapter alone or is incomplete")
    arrays = open_file(path / PARAMS)
    check_specs(str(path / PARAMS), arrays, specs(config))
    tokenizer = own_tokenizer(path, config)
    if tokenizer is not None and isinstance(config, FourMConfig):
        wordpiece_file.check(config, tokenizer, str(path))
    return Checkpoint(str(path), config, arrays, tokenizer)


def open_adapter(path: str | os.PathLike[str]) -> Adapter:
    """The adapter of a folder.

    Raises:
      UserError: files are missing or damaged, or differ from model.json.
    """
    path = pathlib.Path(path)
    try:
        data = json.loads((path / LORA).read_text())
        base = data.pop("base", None)
        data |= {key: tuple(data[key]) for key in ("targets", "towers")}
        config = LoRAConfig(**data)
        known_base = None if base is None else Base(**base)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path / LORA} cannot be read: {error}") from error
    adapter = Adapter(str(path / LORA_PARAMS), config, open_file(path / LORA_PARAMS), known_base)
    adapter.check(read_config(path))
    return adapter
