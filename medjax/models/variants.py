"""The official PaliGemma models by name, and how a model is named in a config."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from medjax.errors import UserError
from medjax.models import config as model_config
from medjax.models.config import GemmaConfig, PaliGemmaConfig, SigLIPConfig

# Gemma's 256,000 tokens, 1,024 <loc> and 128 <seg>. Hugging Face pads the rows to a multiple of 64.
VOCAB_SIZE = 257_152
PADDED_VOCAB_SIZE = 257_216

_SO400M = SigLIPConfig(width=1152, depth=27, mlp_dim=4304, num_heads=16)
_GEMMA_2B = GemmaConfig(
    width=2048, depth=18, mlp_dim=16_384, num_heads=8, num_kv_heads=1, head_dim=256,
    vocab_size=PADDED_VOCAB_SIZE,
)  # fmt: skip


def _gemma2(**sizes) -> GemmaConfig:
    return GemmaConfig(
        vocab_size=PADDED_VOCAB_SIZE,
        post_norms=True,
        attn_logits_softcap=50.0,
        final_logits_softcap=30.0,
        **sizes,
    )


_LLMS = {
    "paligemma-3b": _GEMMA_2B,
    "paligemma2-3b": _gemma2(
        width=2304, depth=26, mlp_dim=9216, num_heads=8, num_kv_heads=4, head_dim=256
    ),
    "paligemma2-10b": _gemma2(
        width=3584, depth=42, mlp_dim=14_336, num_heads=16, num_kv_heads=8, head_dim=256
    ),
    "paligemma2-28b": _gemma2(
        width=4608, depth=46, mlp_dim=36_864, num_heads=32, num_kv_heads=16, head_dim=128,
        query_scale_dim=4608 // 32,
    ),
}  # fmt: skip

VARIANTS: dict[str, PaliGemmaConfig] = {
    f"{name}-{size}": PaliGemmaConfig(image_size=size, img=_SO400M, llm=llm)
    for name, llm in _LLMS.items()
    for size in (224, 448, 896)
}


def resolve(model: str | Mapping[str, Any], image_size: int | None = None) -> PaliGemmaConfig:
    """The model meant by an official name, a JSON file's path, or a nested mapping.

    Args:
      model: "paligemma-3b-224", "my/config.json", or {"img": {...}, "llm": {...}}.
      image_size: overrides the model's own, if given.

    Raises:
      UserError: an unknown name or a config that does not add up.
    """
    if isinstance(model, str):
        if model in VARIANTS:
            config = VARIANTS[model]
        elif model.endswith(".json"):
            config = model_config.load(model)
        else:
            raise UserError(
                f"model {model!r} is neither a .json file nor one of {', '.join(VARIANTS)}"
            )
    else:
        config = model_config.from_dict({"image_size": image_size, **model})
    return dataclasses.replace(config, image_size=image_size or config.image_size)
