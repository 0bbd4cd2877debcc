"""The config of a 4M model as apple/ml-4m keeps it (`fourm/models/fm.py: FM`)."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from medjax import records
from medjax.errors import UserError
from medjax.models.fourm import MODALITIES, FourMConfig, Modality, lookup

# Theirs -> ours, where the value is the same.
_SAME = {
    "dim": "width",
    "encoder_depth": "encoder_depth",
    "decoder_depth": "decoder_depth",
    "num_heads": "num_heads",
    "mlp_ratio": "mlp_ratio",
    "qkv_bias": "qkv_bias",
    "proj_bias": "proj_bias",
    "mlp_bias": "mlp_bias",
    "norm_bias": "norm_bias",
    "gated_mlp": "gated",
    "qk_norm": "qk_norm",
    "num_register_tokens": "num_register_tokens",
    "share_modality_embeddings": "share_modality_embeddings",
    "decoder_sep_mask": "separate_modalities",
}
_REQUIRED = ("domains_in", "domains_out", "norm_bias", "act_layer")
# What the original takes for a size that is not given.
_DEFAULTS = {"dim": 768, "encoder_depth": 12, "decoder_depth": 12, "num_heads": 12}
_ACTIVATIONS = {"GELU": "gelu", "SiLU": "silu"}
# How the original trains, not what it computes.
_IGNORED = {
    "drop_path_rate_encoder", "drop_path_rate_decoder", "shared_drop_path", "use_act_checkpoint",
    "image_size", "patch_size",
}  # fmt: skip
_FIXED = {"decoder_causal_mask": False}


def is_one(data: Any) -> bool:
    """Whether a JSON file's content is a config of 4M."""
    return isinstance(data, Mapping) and set(_REQUIRED) <= set(_unwrapped(data))


def _unwrapped(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config itself, which huggingface_hub wraps."""
    return data["config"] if isinstance(data.get("config"), Mapping) else data


def from_dict(
    data: Mapping[str, Any], where: str, modalities: Mapping[str, Modality] = MODALITIES
) -> FourMConfig:
    """A config of the original's in medjax's words; output layers are tied.

    Raises:
      UserError: a key that is unknown or missing, a modality that the table lacks, or what medjax
        does not compute.
    """
    data = _unwrapped(data)
    known = {*_SAME, *_REQUIRED, *_IGNORED, *_FIXED}
    unknown, missing = sorted(set(data) - known), sorted(set(_REQUIRED) - set(data))
    if unknown or missing:
        raise UserError(f"{where}: a 4M config has unknown keys {unknown} and lacks {missing}")
    for key, value in _FIXED.items():
        if data.get(key, value) != value:
            raise UserError(f"{where}: {key} must be {value!r}, which is all that medjax computes")
    if data["act_layer"] not in _ACTIVATIONS:
        raise UserError(
            f"{where}: act_layer {data['act_layer']!r} is none of {', '.join(_ACTIVATIONS)}"
        )
    for key, value in data.items():
        _check(key, value, where)
    found = {
        name: _entry(name, modalities, data.get("image_size"), where)
        for name in (*data["domains_in"], *data["domains_out"])
    }
    inputs = tuple(data["domains_in"])
    # What the original cannot predict it passes over.
    targets = tuple(name for name in data["domains_out"] if found[name].has_ids)
    return FourMConfig(
        modalities=tuple(found[name] for name in dict.fromkeys((*inputs, *targets))),
        inputs=inputs,
        targets=targets,
        activation=_ACTIVATIONS[data["act_layer"]],
        **{_SAME[key]: value for key, value in {**_DEFAULTS, **data}.items() if key in _SAME},
    )


def _entry(name: str, table: Mapping[str, Modality], size: int | None, where: str) -> Modality:
    base = name.partition("@")[0]
    own = table.get(base) != MODALITIES.get(base)
    try:
        # The config's image size is that of the official modalities; one's own have theirs.
        return lookup(name, table, None if own else size)
    except UserError as error:
        raise UserError(
            f"{where}: {error}. A model with modalities of one's own is read with the model.json "
            "that it had in medjax (--model-config of convert.py)"
        ) from error


def _check(key: str, value: Any, where: str) -> None:
    """Raises UserError if a value is not of the kind that its key asks for."""
    kinds = {field.name: field.type for field in dataclasses.fields(FourMConfig)}
    kind = kinds.get(_SAME.get(key, ""))
    number = isinstance(value, int | float) and not isinstance(value, bool)
    wanted = None
    if key in ("domains_in", "domains_out"):
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            wanted = "a list of names"
    elif kind is bool and not isinstance(value, bool):
        wanted = "true or false"
    elif kind is float and not number:
        wanted = "a number"
    elif kind is int and not (number and isinstance(value, int)):
        wanted = "a whole number"
    if wanted:
        raise UserError(f"{where}: {key} is {value!r}; expected {wanted}")


def to_dict(config: FourMConfig) -> dict[str, Any]:
    """The original's config of a model.

    Raises:
      UserError: the original has no such model.
    """
    if config.kv_heads != config.num_heads:
        raise UserError(
            f"apple/ml-4m has no grouped-query attention; this model has {config.num_heads} heads "
            f"and {config.kv_heads} key/value heads"
        )
    images = [modality for modality in config.modalities if modality.is_image]
    names = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}
    return {
        **{theirs: getattr(config, ours) for theirs, ours in _SAME.items()},
        "act_layer": names[config.activation],
        "domains_in": list(config.inputs),
        "domains_out": list(config.targets),
        "image_size": images[0].image_size if images else 224,
        "patch_size": images[0].patch_size if images else 16,
        **_FIXED,
    }


def read(path: pathlib.Path, modalities: Mapping[str, Modality] = MODALITIES) -> FourMConfig:
    """Reads a config.json; see `from_dict`."""
    return from_dict(records.read_object(path), str(path), modalities)


def check(config: FourMConfig, path: pathlib.Path) -> None:
    """Raises UserError if a config.json is of another model than `config`, as far as it says it."""
    data, wanted = _unwrapped(records.read_object(path)), to_dict(config)
    for key, value in wanted.items():
        if key in _IGNORED or key not in data:
            continue
        found = data[key]
        if key == "domains_out" and isinstance(found, list):
            # What the original cannot predict it passes over.
            found = [name for name in found if name in value]
        if key.startswith("domains_") and isinstance(found, list):
            found, value = sorted(map(str, found)), sorted(value)
        if found != value:
            raise UserError(f"{path}: {key} is {data[key]!r}, the model config asks for {value!r}")


def unofficial(config: FourMConfig) -> list[str]:
    """The modalities of a model that the original's table lacks, or has with other sizes."""
    size = to_dict(config)["image_size"]
    return [m.name for m in config.modalities if not _is_official(m, size)]


def _is_official(modality: Modality, image_size: int) -> bool:
    if modality.name.partition("@")[0] not in MODALITIES:
        return False
    theirs = lookup(modality.name, image_size=image_size)
    fields = (
        "kind", "vocab_size", "image_size", "patch_size", "max_length", "channels",
        "learned_positions",
    )  # fmt: skip
    return all(getattr(modality, field) == getattr(theirs, field) for field in fields)
