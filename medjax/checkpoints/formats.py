"""Checkpoints in whatever format they are, told apart by what lies there."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from medjax.checkpoints import big_vision, fourm, huggingface, model_folder, peft
from medjax.checkpoints.adapters import Adapter
from medjax.checkpoints.tensors import Checkpoint
from medjax.errors import UserError
from medjax.models import families, variants
from medjax.models.config import PaliGemmaConfig
from medjax.models.families import ModelConfig
from medjax.models.fourm import FourMConfig
from medjax.models.variants import PADDED_VOCAB_SIZE, VOCAB_SIZE


def open_any_adapter(path: pathlib.Path) -> Adapter:
    """An adapter folder of PEFT or of medjax.

    Raises:
      UserError: it is neither.
    """
    if model_folder.has_adapter(path):
        return model_folder.open_adapter(path)
    if (path / peft.CONFIG).is_file():
        return peft.open_adapter(path)
    raise UserError(f"{path} holds neither {peft.CONFIG} (PEFT) nor {model_folder.LORA} (medjax)")


def open_any_model(path: pathlib.Path, config: ModelConfig | None = None) -> Checkpoint:
    """A model in whatever format it is: npz file, or folder of medjax, Hugging Face or ml-4m.

    Args:
      config: of the model, needed for an npz file; it also brings the modalities of an ml-4m folder
        if they are not all official.

    Raises:
      UserError: it is none of them.
    """
    if path.is_file() and path.suffix == ".npz":
        if config is None:
            raise UserError(
                f"{path} does not say what model it is; name it: model in a recipe, --model-config "
                "of convert.py"
            )
        families.check(config, families.PALIGEMMA, f"{path} is an npz file; its model config")
        assert isinstance(config, PaliGemmaConfig)
        return big_vision.open_npz(path, config)
    if is_huggingface(path):
        return huggingface.open_folder(path)
    if fourm.is_folder(path):
        return fourm.open_folder(path, config if isinstance(config, FourMConfig) else None)
    if (path / model_folder.MODEL).is_file():
        return model_folder.open_model(path)
    raise UserError(
        f"{path} is no npz file, medjax folder or Hugging Face folder, and none of apple/ml-4m"
    )


def is_huggingface(path: pathlib.Path) -> bool:
    """Whether a path is a Hugging Face folder of PaliGemma and no medjax folder."""
    config = (path / "config.json").is_file() and not (path / model_folder.MODEL).is_file()
    return config and not fourm.is_folder(path)


def named_model(name: str) -> Any:
    """The sizes of a model by its official name, or those in a JSON file such as a model.json.

    Raises:
      UserError: it is neither.
    """
    return families.load(name) if name.endswith(".json") else variants.resolve(name)


def check_model(checkpoint: Checkpoint, named: ModelConfig, name: str) -> None:
    """Raises UserError if a checkpoint is not the named model, but for Gemma's padding."""
    families.check(checkpoint.config, families.of(named), checkpoint.where)
    found, wanted = _sizes(checkpoint.config), _sizes(named)
    different = [
        f"{key} is {found.get(key)}, not {wanted.get(key)}"
        for key in {**found, **wanted}
        if found.get(key) != wanted.get(key)
    ]
    if different:
        more = f", and {len(different) - 4} more" if len(different) > 4 else ""
        raise UserError(
            f"{name} is not the model of {checkpoint.where}, whose {', '.join(different[:4])}{more}"
        )


def _sizes(config: ModelConfig) -> dict[str, Any]:
    """What a model is made of, flat: "llm.width" -> 2048; vocabularies without padding."""
    if isinstance(config, PaliGemmaConfig) and config.llm.vocab_size == PADDED_VOCAB_SIZE:
        llm = dataclasses.replace(config.llm, vocab_size=VOCAB_SIZE)
        config = dataclasses.replace(config, llm=llm)
    data = families.to_dict(config)
    if isinstance(config, FourMConfig):
        data["modalities"] = {entry["name"]: entry for entry in data["modalities"]}
    return _flat(data)


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat
