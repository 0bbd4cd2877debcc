"""PEFT's LoRA adapter folders, read and written (huggingface/peft, `LoraConfig`).

adapter_config.json and adapter_model.safetensors with `base_model.model.<module>.lora_A.weight`
[R, in] and `lora_B.weight` [out, R]. Modules are read in every spelling (see `hf_names`) and
written in the present one.
"""

import json
import math
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from medjax.checkpoints import hf_names
from medjax.checkpoints.adapters import Adapter, Base
from medjax.checkpoints.files import new_folder
from medjax.checkpoints.safetensors_files import open_file, write_file
from medjax.checkpoints.tensors import LazyArray
from medjax.errors import UserError
from medjax.models.lora import LoRAConfig

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_WEIGHT = re.compile(re.escape(_PREFIX) + r"(.+)\.lora_([AB])\.weight")
# Keys of adapter_config.json that change nothing about what a trained adapter computes; any other
# that is set asks for something that medjax does not know, and is refused.
_HARMLESS = {
    "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying",
    "eva_config", "exclude_modules", "inference_mode", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config",
    "megatron_core", "peft_type", "peft_version", "qalora_group_size", "r", "revision",
    "target_modules", "task_type", "use_rslora",
}  # fmt: skip
# Other initial values change the base's weights as well, so that the adapter alone is not enough.
_PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal")


def open_adapter(path: str | os.PathLike[str]) -> Adapter:
    """An adapter folder of PEFT.

    rsLoRA's scaling, alpha / sqrt(R), becomes an alpha that gives the same.

    Raises:
      UserError: files are missing or damaged, or the adapter does what medjax does not compute.
    """
    path = pathlib.Path(path)
    data = _read_config(path / CONFIG)
    rank, alpha = int(data.get("r", 8)), float(data.get("lora_alpha", 8))
    if data.get("use_rslora"):
        alpha *= math.sqrt(rank)
    modules = _modules(path / WEIGHTS)
    arrays = _stacked(path, modules, rank)
    paths = {name.rsplit("/", 1)[0] for name in arrays}
    config = LoRAConfig(
        rank=rank,
        alpha=alpha,
        dropout=float(data.get("lora_dropout", 0.0)),
        targets=tuple(sorted({p.rsplit("/", 1)[1] for p in paths})),
        towers=tuple(sorted({p.split("/", 1)[0] for p in paths})),
        init="normal" if data.get("init_lora_weights") == "gaussian" else "kaiming",
    )
    base = data.get("base_model_name_or_path")
    return Adapter(str(path), config, arrays, Base(base) if base else None)


def _read_config(path: pathlib.Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict) or data.get("peft_type") != "LORA":
        raise UserError(f"{path}: peft_type is not LORA, the only kind that medjax computes")
    if data.get("bias", "none") != "none":
        raise UserError(f"{path}: bias {data['bias']!r}: medjax adapts no biases")
    if data.get("init_lora_weights", True) not in _PLAIN_INITS:
        raise UserError(
            f"{path}: init_lora_weights {data['init_lora_weights']!r} changes the base too; "
            "convert it to a plain adapter with PEFT (path_initial_model_for_weight_conversion)"
        )
    refused = sorted(key for key, value in data.items() if value and key not in _HARMLESS)
    if refused:
        raise UserError(
            f"{path}: {', '.join(refused)} asks for what medjax does not compute; it reads plain "
            "LoRA (and rsLoRA) with one rank and one alpha"
        )
    return data


def _modules(path: pathlib.Path) -> dict[tuple[str, int], dict[str, LazyArray]]:
    """{(medjax's path, layer): {"A": [R, in], "B": [out, R]}} of an adapter file."""
    if not path.is_file():
        raise UserError(f"{path} is missing (adapters saved as .bin must be saved again)")
    modules: dict[tuple[str, int], dict[str, LazyArray]] = {}
    for name, array in open_file(path).items():
        match = _WEIGHT.fullmatch(name)
        place = match and hf_names.layer_path(match.group(1))
        if not match or not place:
            raise UserError(
                f"{path}: medjax has no place for {name}; it adapts the linear layers of the "
                "language model and of the vision tower"
            )
        pair = modules.setdefault(place, {})
        if match.group(2) in pair:
            raise UserError(f"{path}: {name} comes twice, in two spellings")
        pair[match.group(2)] = array
    if not modules:
        raise UserError(f"{path} holds no adapter")
    return modules


def _stacked(
    path: pathlib.Path, modules: Mapping[tuple[str, int], Mapping[str, LazyArray]], rank: int
) -> dict[str, LazyArray]:
    """Layers put together: [L, in, R] and [L, R, out]."""
    depth: dict[str, int] = {}
    for ours, layer in modules:
        depth[ours] = max(depth.get(ours, 0), layer + 1)
    arrays = {}
    for ours, layers in sorted(depth.items()):
        for kind, leaf in (("A", "lora_a"), ("B", "lora_b")):
            tensors = []
            for layer in range(layers):
                tensor = modules.get((ours, layer), {}).get(kind)
                if tensor is None or len(tensor.shape) != 2:
                    raise UserError(f"{path}: lora_{kind} of {ours}, layer {layer}, is missing")
                if tensor.shape[0 if kind == "A" else 1] != rank:
                    raise UserError(
                        f"{path}: lora_{kind} of {ours}, layer {layer}, has shape {tensor.shape}, "
                        f"which does not go with rank {rank}"
                    )
                tensors.append(tensor)
            if len({tensor.shape for tensor in tensors}) > 1:
                raise UserError(f"{path}: the layers of {ours} differ in shape")
            arrays[f"{ours}/{leaf}"] = _stack(tensors)
    return arrays


def _stack(tensors: list[LazyArray]) -> LazyArray:
    rows, columns = tensors[0].shape

    def read() -> np.ndarray:
        return np.stack([tensor.read().T.astype(np.float32) for tensor in tensors])

    return LazyArray((len(tensors), columns, rows), np.dtype(np.float32), read)


def write_adapter(
    adapter: Adapter, path: str | os.PathLike[str], *, base: Base | None = None, overwrite=False
) -> None:
    """Writes a folder that `PeftModel.from_pretrained` loads onto the exported base.

    Args:
      adapter: checked against its model.
      base: where the Hugging Face base is, which is written as base_model_name_or_path; by default
        what the adapter says.

    Raises:
      UserError: `path` may not be overwritten.
    """
    base = base or adapter.base
    config = adapter.config
    tensors = {}
    for name, array in adapter.arrays.items():
        ours, leaf = name.rsplit("/", 1)
        kind = {"lora_a": "A", "lora_b": "B"}[leaf]
        for layer in range(array.shape[0]):
            module = f"model.{hf_names.module_path(ours, layer)}"
            tensors[f"{_PREFIX}{module}.lora_{kind}.weight"] = _layer(array, layer)
    data = {
        "peft_type": "LORA",
        "auto_mapping": {
            "base_model_class": "PaliGemmaForConditionalGeneration",
            "parent_library": "transformers.models.paligemma.modeling_paligemma",
        },
        "base_model_name_or_path": None if base is None else base.path,
        "task_type": None,
        "inference_mode": True,
        "r": config.rank,
        "lora_alpha": int(config.alpha) if config.alpha == int(config.alpha) else config.alpha,
        "lora_dropout": config.dropout,
        # A pattern, not bare names: PEFT would look for those in every tower.
        "target_modules": _pattern(config),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": "gaussian" if config.init == "normal" else True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }
    with new_folder(path, markers=(CONFIG,), overwrite=overwrite) as folder:
        (folder / CONFIG).write_text(json.dumps(data, indent=2) + "\n")
        write_file(folder / WEIGHTS, tensors)


def _layer(array: LazyArray, layer: int) -> LazyArray:
    _, rows, columns = array.shape
    return LazyArray(
        (columns, rows), np.dtype(np.float32), lambda: array.read()[layer].T.astype(np.float32)
    )


def _pattern(config: LoRAConfig) -> str:
    """A regular expression that PEFT matches against whole module names."""
    towers, targets = "|".join(config.towers), "|".join(config.targets)
    return rf".*\b({towers})\..*layers\.\d+\.(self_attn|mlp)\.({targets})"
