"""Shapes of 4M models, as immutable records; read from and written to JSON."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from medjax import records
from medjax.errors import UserError
from medjax.modalities.table import Modality

ACTIVATIONS = ("gelu", "silu")
# A modality's name is part of its parameters' names, of which these say what an adapter is.
_RESERVED = ("base", "lora_a", "lora_b")


@dataclasses.dataclass(frozen=True)
class FourMConfig:
    """A 4M encoder-decoder (arXiv:2312.06647).

    Attributes:
      width: D. encoder_depth, decoder_depth: L of each. num_heads: N; heads are D / N wide.
      modalities: all there are; a modality's id in packed tokens is its index here.
      inputs, targets: names of those that the encoder reads and that the decoder predicts.
      num_kv_heads: K, if it is not N (grouped-query attention, arXiv:2305.13245).
      mlp_ratio: the MLP is mlp_ratio * D wide, a gated one two thirds of that.
      gated: whether the MLP has a gate (arXiv:2002.05202). activation: "gelu" (exact) or "silu".
      qkv_bias, proj_bias, mlp_bias, norm_bias: which layers have biases.
      qk_norm: LayerNorm of every head's queries and keys (arXiv:2302.05442).
      num_register_tokens: learned tokens in front of the encoder's (arXiv:2309.16588).
      share_modality_embeddings: whether encoder and decoder know a modality by the same embedding.
      tie_embeddings: whether a decoder's token embedding is its output layer, too.
      separate_modalities: whether decoder tokens attend only to those of their own modality.

    Raises:
      UserError: sizes or modalities that do not add up.
    """

    width: int
    encoder_depth: int
    decoder_depth: int
    num_heads: int
    modalities: tuple[Modality, ...]
    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    num_kv_heads: int | None = None
    mlp_ratio: float = 4.0
    gated: bool = False
    activation: str = "gelu"
    qkv_bias: bool = True
    proj_bias: bool = True
    mlp_bias: bool = True
    norm_bias: bool = True
    qk_norm: bool = False
    num_register_tokens: int = 0
    share_modality_embeddings: bool = True
    tie_embeddings: bool = True
    separate_modalities: bool = True

    def __post_init__(self):
        for name in ("width", "encoder_depth", "decoder_depth", "num_heads", "mlp_ratio"):
            value = getattr(self, name)
            _require(0 < value < math.inf, f"{name} is {value!r}; it must be a number above 0")
        _require(
            self.width % self.num_heads == 0,
            f"width {self.width} is no multiple of num_heads {self.num_heads}",
        )
        _require(
            self.kv_heads > 0 and self.num_heads % self.kv_heads == 0,
            f"num_heads {self.num_heads} is no multiple of num_kv_heads {self.kv_heads}",
        )
        _require(
            self.activation in ACTIVATIONS,
            f"activation {self.activation!r} is none of {', '.join(ACTIVATIONS)}",
        )
        _require(
            self.num_register_tokens >= 0,
            f"num_register_tokens is {self.num_register_tokens}; it cannot be negative",
        )
        self._check_modalities()

    def _check_modalities(self):
        names = self.names
        _require(len(set(names)) == len(names), f"modalities repeat: {', '.join(names)}")
        for name in names:
            _require(
                name not in _RESERVED,
                f"a modality cannot be called {name!r}, by which parameters of adapters are known",
            )
        for field in ("inputs", "targets"):
            chosen = getattr(self, field)
            _require(bool(chosen), f"{field} must name at least one modality")
            _require(len(set(chosen)) == len(chosen), f"{field} repeat: {', '.join(chosen)}")
            for name in chosen:
                _require(name in names, f"{field}: {name!r} is none of {', '.join(names)}")
        idle = set(names) - set(self.inputs) - set(self.targets)
        _require(
            not idle, f"modalities {', '.join(sorted(idle))} are neither among inputs nor targets"
        )
        for modality in self.modalities:
            _require(
                modality.name not in self.targets or modality.has_ids,
                f"targets: {modality.name!r} ({modality.kind}) has no ids to predict",
            )
            pairs = 4 if modality.is_image else 2
            _require(
                modality.learned_positions or self.width % pairs == 0,
                f"width {self.width} is no multiple of {pairs}, which the sines and cosines of "
                f"{modality.name!r} need",
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Of all modalities, in the order of their ids."""
        return tuple(modality.name for modality in self.modalities)

    @property
    def kv_heads(self) -> int:
        """K."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def head_dim(self) -> int:
        """H."""
        return self.width // self.num_heads

    @property
    def mlp_dim(self) -> int:
        """F."""
        plain = int(self.width * self.mlp_ratio)
        return int(2 * plain / 3) if self.gated else plain

    def index(self, name: str) -> int:
        """A modality's id in packed tokens."""
        return self.names.index(name)

    def modality(self, name: str) -> Modality:
        """The modality of a name."""
        return self.modalities[self.index(name)]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(f"model: {message}")


def to_dict(config: FourMConfig) -> dict[str, Any]:
    """Nested dictionaries that `from_dict` reads back, also by way of JSON."""
    return dataclasses.asdict(config)


def from_dict(data: Mapping[str, Any], where: str = "model") -> FourMConfig:
    """A config from nested dictionaries, as a JSON file holds them: all of its modalities' entries.

    Raises:
      UserError: a key that is unknown or missing, a value that is not of its kind, or what
        FourMConfig or Modality refuses.
    """
    return records.from_dict(FourMConfig, data, where)
