"""Shapes of image tokenizers, as immutable records; read from and written to JSON."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from medjax import records
from medjax.errors import UserError

KINDS = ("image", "mask")
DISTANCES = ("cosine", "l2")


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """A vision transformer over patches, or back to them (arXiv:2110.04627).

    Attributes:
      width: D. depth: L. num_heads: N. mlp_ratio: the MLP is mlp_ratio * D wide.
    """

    width: int
    depth: int
    num_heads: int
    mlp_ratio: float = 4.0

    def __post_init__(self):
        _positive(self)
        _require(
            self.width % self.num_heads == 0,
            f"width {self.width} is no multiple of num_heads {self.num_heads}",
        )
        _require(self.width % 4 == 0, f"width {self.width} is no multiple of 4, as positions need")

    @property
    def mlp_dim(self) -> int:
        """F."""
        return int(self.width * self.mlp_ratio)


@dataclasses.dataclass(frozen=True)
class ConvConfig:
    """A convolutional network that halves the image's size at each stage, or doubles it.

    Attributes:
      widths: channels of each stage, from pixels to tokens. blocks: residual blocks of a stage.
    """

    widths: tuple[int, ...]
    blocks: int = 1

    def __post_init__(self):
        _positive(self)


@dataclasses.dataclass(frozen=True)
class VQConfig:
    """Vector quantization by a codebook that follows the latents (arXiv:1711.00937, appendix A.1).

    Attributes:
      num_codes: V. code_width: D of a code.
      distance: "cosine" (latents and codes have length 1, arXiv:2110.04627) or "l2".
      decay: of the moving averages, for each step; in (0, 1).
      commitment: weight of the latents' mean squared distance from their codes.
      restart_below: a code is dead, and starts anew from a latent of the batch, when its part of
        the tokens is less than this part of the mean code's; in [0, 1), 0 is never.
    """

    num_codes: int
    code_width: int
    distance: str = "cosine"
    decay: float = 0.99
    commitment: float = 1.0
    restart_below: float = 0.05

    def __post_init__(self):
        _positive(self, "num_codes", "code_width")
        _require(
            self.distance in DISTANCES,
            f"distance {self.distance!r} is none of {', '.join(DISTANCES)}",
        )
        _require(0 < self.decay < 1, f"decay {self.decay} is not between 0 and 1")
        _require(
            0 <= self.commitment < math.inf, f"commitment {self.commitment} must be at least 0"
        )
        _require(0 <= self.restart_below < 1, f"restart_below {self.restart_below} not in [0, 1)")


@dataclasses.dataclass(frozen=True)
class FSQConfig:
    """Finite scalar quantization (arXiv:2309.15505): no codebook, only levels in each dimension.

    Attributes:
      levels: number of values in each dimension of a code; their product is V.
    """

    levels: tuple[int, ...]

    def __post_init__(self):
        _positive(self)
        _require(min(self.levels) > 1, f"levels {list(self.levels)} must be at least 2 each")
        _require(
            self.num_codes < 2**31, f"levels {list(self.levels)} make more codes than int32 counts"
        )

    @property
    def num_codes(self) -> int:
        """V."""
        return math.prod(self.levels)

    @property
    def code_width(self) -> int:
        """D of a code."""
        return len(self.levels)


NetworkConfig = ViTConfig | ConvConfig
QuantizerConfig = VQConfig | FSQConfig


@dataclasses.dataclass(frozen=True)
class ImageTokenizerConfig:
    """An image tokenizer: encoder, quantizer, decoder.

    Attributes:
      kind: "image" (pixels in, pixels out) or "mask" (classes in, logits out).
      image_size: side of the square image, pixels. patch_size: side of what one token stands for.
      channels: of an image; number of classes of a mask.
      mean, std: of each channel: an image is normalised to (image - mean) / std, and comes back in
        its own units. 0 and 1 if empty; a mask has none.
    """

    kind: str
    image_size: int
    patch_size: int
    channels: int
    encoder: NetworkConfig
    decoder: NetworkConfig
    quantizer: QuantizerConfig
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self):
        _require(self.kind in KINDS, f"kind {self.kind!r} is none of {', '.join(KINDS)}")
        _positive(self, "image_size", "patch_size", "channels")
        _require(
            self.image_size % self.patch_size == 0,
            f"image_size {self.image_size} is no multiple of patch_size {self.patch_size}",
        )
        for name in ("encoder", "decoder"):
            network = getattr(self, name)
            stride = 2 ** len(network.widths) if isinstance(network, ConvConfig) else 0
            _require(
                stride in (0, self.patch_size),
                f"{name}: {len(getattr(network, 'widths', ()))} widths change the size by a factor "
                f"of {stride}, patch_size is {self.patch_size}",
            )
        for name in ("mean", "std"):
            values = getattr(self, name)
            _require(
                len(values) in (0, self.channels),
                f"{name} has {len(values)} numbers for {self.channels} channels",
            )
            _require(self.kind == "image" or not values, f"{name} is of images, and kind is 'mask'")
            _require(all(map(math.isfinite, values)), f"{name} {list(values)} is not finite")
        _require(min(self.std, default=1.0) > 0, f"std {list(self.std)} must be above 0")
        _require(self.kind == "image" or self.channels > 1, "a mask has at least 2 classes")

    @property
    def side(self) -> int:
        """Tokens on one side of the grid."""
        return self.image_size // self.patch_size

    @property
    def vocab_size(self) -> int:
        """V, the number of ids."""
        return self.quantizer.num_codes


def _positive(config: Any, *names: str) -> None:
    """Raises UserError unless the named fields, or all, are numbers above 0 or hold such alone."""
    for name in names or [field.name for field in dataclasses.fields(config)]:
        value = getattr(config, name)
        values = value if isinstance(value, tuple) else (value,)
        _require(
            bool(values) and all(0 < v < math.inf for v in values),
            f"{name} is {value!r}; it must be above 0",
        )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(f"image tokenizer: {message}")


# What JSON calls the records between which a field leaves the choice.
_TYPES = {"vit": ViTConfig, "conv": ConvConfig, "vq": VQConfig, "fsq": FSQConfig}
_NAMES = {record: name for name, record in _TYPES.items()}


def to_dict(config: ImageTokenizerConfig) -> dict[str, Any]:
    """Nested dictionaries that `from_dict` reads back, also by way of JSON."""
    data = dataclasses.asdict(config)
    for name in ("encoder", "decoder", "quantizer"):
        data[name] = {"type": _NAMES[type(getattr(config, name))], **data[name]}
    return data


def from_dict(data: Mapping[str, Any], where: str = "image tokenizer") -> ImageTokenizerConfig:
    """A config from nested dictionaries, as a JSON file holds them.

    Raises:
      UserError: a key that is unknown or missing, or a value that is not of its kind.
    """
    return records.from_dict(ImageTokenizerConfig, data, where, _TYPES)
