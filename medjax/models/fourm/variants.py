"""The official sizes of 4M by their names in apple/ml-4m, `fourm/models/fm.py`."""

from collections.abc import Mapping, Sequence
from typing import Any

from medjax.errors import UserError
from medjax.modalities.table import MODALITIES, Modality, lookup
from medjax.models.fourm.config import FourMConfig

# Width, depth of encoder and of decoder, heads.
_SIZES = {
    "tiny": (384, 6, 6),
    "small": (512, 8, 8),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "xlarge": (2048, 24, 32),
}
_NO_BIAS = dict.fromkeys(("qkv_bias", "proj_bias", "mlp_bias", "norm_bias"), False)
_STYLES: dict[str, dict[str, Any]] = {
    "gelu": {},
    "swiglu_nobias": {"gated": True, "activation": "silu", **_NO_BIAS},
    "swiglu_qknorm_nobias": {"gated": True, "activation": "silu", "qk_norm": True, **_NO_BIAS},
}
VARIANTS: dict[str, dict[str, Any]] = {
    f"fm_{size}_{depth}e_{depth}d_{style}": {
        "width": width, "encoder_depth": depth, "decoder_depth": depth, "num_heads": heads,
        **options,
    }
    for size, (width, depth, heads) in _SIZES.items()
    for style, options in _STYLES.items()
}  # fmt: skip


def variant(
    name: str,
    inputs: Sequence[str],
    targets: Sequence[str],
    *,
    modalities: Mapping[str, Modality] = MODALITIES,
    **changes: Any,
) -> FourMConfig:
    """An official model for chosen modalities.

    Args:
      name: a key of VARIANTS.
      inputs, targets: names of modalities, as `lookup` takes them.
      modalities: the table in which they are looked up.
      **changes: other fields of FourMConfig.

    Raises:
      UserError: an unknown name, or what FourMConfig refuses.
    """
    if name not in VARIANTS:
        raise UserError(f"model {name!r} is none of {', '.join(VARIANTS)}")
    return FourMConfig(
        modalities=tuple(lookup(n, modalities) for n in dict.fromkeys((*inputs, *targets))),
        inputs=tuple(inputs),
        targets=tuple(targets),
        **{**VARIANTS[name], **changes},
    )
