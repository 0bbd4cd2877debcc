"""The kinds of models that medjax has: what checkpoints, adapters and tools must know of each.

A model folder's model.json says its family; one that says none is PaliGemma's.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from flax import nnx

from medjax import records
from medjax.errors import UserError
from medjax.models import config as paligemma_config
from medjax.models.config import PaliGemmaConfig
from medjax.models.fourm import FourM, FourMConfig
from medjax.models.fourm import config as fourm_config
from medjax.models.paligemma import PaliGemma

ModelConfig = PaliGemmaConfig | FourMConfig


@dataclasses.dataclass(frozen=True)
class Family:
    """One kind of model.

    Attributes:
      name: in model.json. title: in messages.
      config: class of its sizes. to_dict, from_dict: these as nested dictionaries, and back; the
        latter is also told what messages call them.
      create: the model of a config; takes dtype, param_dtype, remat and rngs as well.
      tokenizer: what its text tokenizer's file is called in folders.
    """

    name: str
    title: str
    config: type
    to_dict: Callable[[Any], dict[str, Any]]
    from_dict: Callable[[dict[str, Any], str], Any]
    create: Callable[..., nnx.Module]
    tokenizer: str


PALIGEMMA = Family(
    "paligemma", "PaliGemma", PaliGemmaConfig, paligemma_config.to_dict,
    paligemma_config.from_dict, PaliGemma, "tokenizer.model",
)  # fmt: skip
FOURM = Family(
    "fourm", "4M", FourMConfig, fourm_config.to_dict,
    fourm_config.from_dict, FourM, "wordpiece.json",
)  # fmt: skip
FAMILIES = {family.name: family for family in (PALIGEMMA, FOURM)}


def of(config: ModelConfig) -> Family:
    """The family of a model, known by its config."""
    return next(family for family in FAMILIES.values() if isinstance(config, family.config))


def check(config: ModelConfig, wanted: Family, where: str) -> None:
    """Raises UserError unless a model is of the wanted family."""
    if (found := of(config)) is not wanted:
        raise UserError(
            f"{where} is a {found.title} model, where a {wanted.title} model is asked for"
        )


def to_dict(config: ModelConfig) -> dict[str, Any]:
    """What a model.json holds: nested dictionaries, with the family if it is not PaliGemma."""
    family = of(config)
    said = {} if family is PALIGEMMA else {"family": family.name}
    return said | family.to_dict(config)


def load(path: str | pathlib.Path) -> Any:
    """Reads a JSON file in the form of `to_dict`, of whichever family it is.

    Raises:
      UserError: no such file, an unknown family, or what the family's `from_dict` refuses.
    """
    data = records.read_object(path, "model config")
    name = data.pop("family", PALIGEMMA.name)
    if name not in FAMILIES:
        raise UserError(f"{path}: family {name!r} is none of {', '.join(FAMILIES)}")
    return FAMILIES[name].from_dict(data, str(path))
