"""Shapes of PaliGemma models, as immutable records; read from and written to JSON."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from medjax import records
from medjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class SigLIPConfig:
    """SigLIP's vision transformer (Zhai et al., arXiv:2303.15343).

    Attributes:
      width: D. depth: L. mlp_dim: F. num_heads: N; heads are width / N wide.
      patch_size: side of a square patch, pixels.
    """

    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    patch_size: int = 14


@dataclasses.dataclass(frozen=True)
class GemmaConfig:
    """Gemma 1 (arXiv:2403.08295) or Gemma 2 (arXiv:2408.00118) decoder.

    Attributes:
      width: D. depth: L. mlp_dim: F. num_heads: N. num_kv_heads: K. head_dim: H.
      vocab_size: V, the rows of the tied embedding.
      post_norms: Gemma 2's norms after attention and MLP.
      attn_logits_softcap: cap of attention logits, or None.
      final_logits_softcap: cap of the vocabulary's logits, or None.
      query_scale_dim: queries are scaled by query_scale_dim ** -0.5; head_dim everywhere but in
        Gemma 2 27B, which uses width / num_heads.
    """

    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    post_norms: bool = False
    attn_logits_softcap: float | None = None
    final_logits_softcap: float | None = None
    query_scale_dim: int | None = None

    @property
    def query_scale(self) -> float:
        """What multiplies the attention logits."""
        return (self.query_scale_dim or self.head_dim) ** -0.5


@dataclasses.dataclass(frozen=True)
class PaliGemmaConfig:
    """SigLIP + linear projection + Gemma (PaliGemma, arXiv:2407.07726; 2: arXiv:2412.03555).

    Attributes:
      image_size: side of the square input image, pixels; a multiple of the patch size.
    """

    image_size: int
    img: SigLIPConfig
    llm: GemmaConfig

    def __post_init__(self):
        img, llm = self.img, self.llm
        _require(
            self.image_size % img.patch_size == 0,
            f"image_size {self.image_size} is no multiple of img.patch_size {img.patch_size}",
        )
        _require(
            img.width % img.num_heads == 0,
            f"img.width {img.width} is no multiple of img.num_heads {img.num_heads}",
        )
        _require(
            llm.num_heads % llm.num_kv_heads == 0,
            f"llm.num_heads {llm.num_heads} is no multiple of llm.num_kv_heads {llm.num_kv_heads}",
        )
        _require(llm.head_dim % 2 == 0, f"llm.head_dim {llm.head_dim} is odd; RoPE needs pairs")

    @property
    def num_patches(self) -> int:
        """P, the image tokens in front of the text."""
        return (self.image_size // self.img.patch_size) ** 2

    @property
    def generation(self) -> int:
        """1 or 2: the Gemma that it is made of."""
        return 2 if self.llm.post_norms else 1


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(f"model: {message}")


# Fields of big_vision's configs that say how it computes, not what.
_IGNORED_LLM = {"variant", "scan", "remat_policy", "dropout", "dropout_bdims", "cache_dtype"}
_IGNORED_IMG = {"scan", "variant", "dropout", "remat_policy", "dtype_mm"}
_IGNORED = {"bos", "eos", "newline", "pad"}
# Fields whose value medjax knows one way only.
_FIXED_LLM = {"norm_eps": 1e-6, "embed_dtype": "float32"}
_FIXED_IMG = {"pool_type": "none", "posemb": "learn", "rep_size": False}


def from_dict(data: Mapping[str, Any], where: str = "model") -> PaliGemmaConfig:
    """A config from nested dictionaries, in big_vision's words or in medjax's own.

    Raises:
      UserError: a key that is unknown or missing, or a feature that medjax does not compute.
    """
    data = dict(data)
    for key in _IGNORED:
        data.pop(key, None)
    llm, img = (_tower(data.pop(name, {}), f"{where}: {name}") for name in ("llm", "img"))
    scale = llm.pop("query_pre_attn_norm", "rsqrt_head_dim")
    if scale not in ("rsqrt_head_dim", "rsqrt_emb_per_head"):
        raise UserError(f"{where}: llm.query_pre_attn_norm {scale!r} is unknown")
    for key in ("attn_logits_softcap", "final_logits_softcap"):
        llm[key] = llm.get(key) or None
    patch = img.get("patch_size")
    if isinstance(patch, list | tuple):
        _require(len(set(patch)) == 1, f"img.patch_size {patch} is not square")
        img["patch_size"] = patch[0]
    img = _known(img, _IGNORED_IMG, _FIXED_IMG, where)
    llm = _known(llm, _IGNORED_LLM, _FIXED_LLM, where)
    towers = {
        "img": _build(SigLIPConfig, img, where, "img."),
        "llm": _build(GemmaConfig, llm, where, "llm."),
    }
    gemma = towers["llm"]
    dim = gemma.query_scale_dim
    if scale == "rsqrt_emb_per_head":
        dim = gemma.width // gemma.num_heads
    if dim == gemma.head_dim:
        dim = None  # one spelling for one computation
    towers["llm"] = dataclasses.replace(gemma, query_scale_dim=dim)
    return _build(PaliGemmaConfig, data | towers, where)


def _tower(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{where} is {value!r}; it must hold the sizes of a tower by name")
    return dict(value)


def _known(data: dict, ignored: set[str], fixed: dict[str, Any], where: str) -> dict:
    for key, value in fixed.items():
        if data.pop(key, value) != value:
            raise UserError(f"{where}: {key} must be {value!r}, which is all that medjax computes")
    return {key: value for key, value in data.items() if key not in ignored}


def _build(cls, data: dict, where: str, prefix: str = ""):
    known = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(set(data) - set(known))
    missing = sorted(
        name
        for name, field in known.items()
        if field.default is dataclasses.MISSING and name not in data
    )
    if unknown or missing:
        raise UserError(
            f"{where}: {cls.__name__} has unknown keys {unknown} and lacks {missing}; "
            f"it knows {sorted(known)}"
        )
    for name, value in data.items():
        data[name] = _checked(value, known[name].type, f"{where}: {prefix}{name}")
    return cls(**data)


def _checked(value: Any, kind: Any, name: str) -> Any:
    """A field's value, if it is of the declared type; numbers are positive, bool is none."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and kind == float | None:
        value = float(value)
    if not isinstance(value, kind) or (number and value <= 0) or (kind is int and not number):
        wanted = "true or false" if kind is bool else f"{getattr(kind, '__name__', kind)} > 0"
        raise UserError(f"{name} is {value!r}; expected {wanted}")
    return value


def to_dict(config: PaliGemmaConfig) -> dict[str, Any]:
    """Nested dictionaries that `from_dict` reads back."""
    return dataclasses.asdict(config)


def load(path: str | pathlib.Path) -> PaliGemmaConfig:
    """Reads a JSON file in the form of `to_dict` or of big_vision's `img` and `llm` configs."""
    return from_dict(records.read_object(path, "model config"), where=str(path))
