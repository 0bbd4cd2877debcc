"""transformers' config.json of PaliGemma, read and written.

Files omit what equals the classes' defaults, so that the defaults are part of the format; they are
those of `GemmaConfig`, `Gemma2Config`, `SiglipVisionConfig` and `PaliGemmaConfig` in transformers 5
(and 4), `models/*/configuration_*.py`.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from medjax.errors import UserError
from medjax.models.config import GemmaConfig, PaliGemmaConfig, SigLIPConfig
from medjax.models.variants import PADDED_VOCAB_SIZE, VOCAB_SIZE

_TEXT_COMMON = {
    "vocab_size": 256_000,
    "head_dim": 256,
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "max_position_embeddings": 8192,
}
_TEXT_DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma": {
        **_TEXT_COMMON,
        "hidden_size": 3072, "intermediate_size": 24_576, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 16, "final_logit_softcapping": None,
    },
    "gemma2": {
        **_TEXT_COMMON,
        "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
        "num_attention_heads": 8, "num_key_value_heads": 4, "query_pre_attn_scalar": 256,
        "sliding_window": 4096, "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0,
    },
}  # fmt: skip
_VISION_DEFAULTS = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "num_channels": 3, "image_size": 224, "patch_size": 16,
    "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
}  # fmt: skip
# What PaliGemmaConfig puts in place of a text_config or vision_config that is absent altogether.
_TEXT_ABSENT = {
    "model_type": "gemma", "hidden_size": 2048, "num_hidden_layers": 18,
    "intermediate_size": 16_384, "num_attention_heads": 8, "num_key_value_heads": 1,
    "vocab_size": VOCAB_SIZE,
}  # fmt: skip
_VISION_ABSENT = {
    "hidden_size": 1152, "intermediate_size": 4096, "patch_size": 14, "image_size": 224,
    "num_hidden_layers": 27, "num_attention_heads": 16,
}  # fmt: skip


def read(path: pathlib.Path) -> PaliGemmaConfig:
    """The model of a config.json.

    Raises:
      UserError: it cannot be read, is no PaliGemma, or asks for what medjax does not compute.
    """
    try:
        data = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict) or data.get("model_type") != "paligemma":
        raise UserError(f"{path}: its model_type is not paligemma")
    text = data.get("text_config") or _TEXT_ABSENT
    generation = text.get("model_type", "gemma")
    if generation not in _TEXT_DEFAULTS:
        raise UserError(
            f"{path}: text_config.model_type {generation!r} is neither gemma nor gemma2"
        )
    text = {**_TEXT_DEFAULTS[generation], **text}
    vision = {**_VISION_DEFAULTS, **(data.get("vision_config") or _VISION_ABSENT)}
    config = PaliGemmaConfig(
        image_size=_side(path, vision["image_size"], "image_size"),
        img=SigLIPConfig(
            width=vision["hidden_size"],
            depth=vision["num_hidden_layers"],
            mlp_dim=vision["intermediate_size"],
            num_heads=vision["num_attention_heads"],
            patch_size=_side(path, vision["patch_size"], "patch_size"),
        ),
        llm=_gemma(text, generation),
    )
    _check_text(path, text, generation, config)
    _expect(path, "vision_config.num_channels", vision["num_channels"], 3)
    _expect(path, "vision_config.hidden_act", vision["hidden_act"], "gelu_pytorch_tanh")
    _expect(path, "vision_config.layer_norm_eps", vision["layer_norm_eps"], 1e-6)
    _expect(path, "tie_word_embeddings", data.get("tie_word_embeddings", True), True)
    return config


def _gemma(text: Mapping[str, Any], generation: str) -> GemmaConfig:
    second = generation == "gemma2"
    scale_dim = text["query_pre_attn_scalar"] if second else None
    return GemmaConfig(
        width=text["hidden_size"],
        depth=text["num_hidden_layers"],
        mlp_dim=text["intermediate_size"],
        num_heads=text["num_attention_heads"],
        num_kv_heads=text["num_key_value_heads"],
        head_dim=text["head_dim"],
        vocab_size=text["vocab_size"],
        post_norms=second,
        attn_logits_softcap=(text["attn_logit_softcapping"] or None) if second else None,
        final_logits_softcap=text["final_logit_softcapping"] or None,
        query_scale_dim=None if scale_dim == text["head_dim"] else scale_dim,
    )


def _check_text(path: pathlib.Path, text: dict, generation: str, config: PaliGemmaConfig) -> None:
    _expect(path, "text_config.rms_norm_eps", text["rms_norm_eps"], 1e-6)
    _expect(path, "text_config.attention_bias", text["attention_bias"], False)
    _expect(path, "text_config.tie_word_embeddings", text.get("tie_word_embeddings", True), True)
    activation = text.get("hidden_activation") or text.get("hidden_act") or "gelu_pytorch_tanh"
    if generation == "gemma" and activation == "gelu":
        activation = "gelu_pytorch_tanh"  # what transformers computes for this legacy value
    _expect(path, "text_config.hidden_activation", activation, "gelu_pytorch_tanh")
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    theta = rope.get("rope_theta") or text.get("rope_theta") or 10_000.0
    _expect(path, "text_config.rope_theta", float(theta), 10_000.0)
    kind = rope.get("rope_type", rope.get("type", "default"))
    _expect(path, "text_config.rope_parameters.rope_type", kind, "default")
    window: int = text.get("sliding_window") or 0
    layers = text.get("layer_types") or ["sliding_attention"]
    windowed = generation == "gemma2" and window and "sliding_attention" in layers
    # PaliGemma 2 was trained without windows (big_vision knows none) and its official configs name
    # one of 4,096 nonetheless, which the image of the 896-pixel model fills alone.
    if windowed and window < config.num_patches:
        raise UserError(
            f"{path}: text_config.sliding_window {window} is shorter than the image's "
            f"{config.num_patches} tokens; medjax computes no sliding windows"
        )


def _expect(path: pathlib.Path, key: str, value: Any, wanted: Any) -> None:
    if value != wanted:
        raise UserError(f"{path}: {key} is {value!r}; medjax computes {wanted!r} only")


def _side(path: pathlib.Path, value: Any, key: str) -> int:
    if isinstance(value, list | tuple):
        if len(set(value)) != 1:
            raise UserError(f"{path}: vision_config.{key} {value} is not square")
        return value[0]
    return value


def check(config: PaliGemmaConfig) -> None:
    """Raises UserError if transformers has no such model."""
    llm, second = config.llm, config.llm.post_norms
    if not second and (llm.attn_logits_softcap or llm.query_scale != llm.head_dim**-0.5):
        raise UserError(
            "transformers' Gemma 1 knows neither attn_logits_softcap nor query_scale_dim; "
            "this model cannot be written for it"
        )
    if second and llm.width % llm.num_heads:
        raise UserError(
            f"transformers' Gemma 2 wants llm.width ({llm.width}) to be a multiple of "
            f"llm.num_heads ({llm.num_heads}); this model cannot be written for it"
        )


def to_dict(
    config: PaliGemmaConfig,
    *,
    dtype: str,
    image_token_id: int,
    special_ids: Mapping[str, int],
) -> dict[str, Any]:
    """config.json of a model.

    Args:
      dtype: of the weights, "float32" and so on.
      image_token_id: what stands for an image patch in a text; transformers allows one beyond the
        vocabulary.
      special_ids: bos_token_id, eos_token_id, pad_token_id.

    Raises:
      UserError: transformers has no such model.
    """
    check(config)
    img, llm = config.img, config.llm
    second = llm.post_norms
    text: dict[str, Any] = {
        "model_type": "gemma2" if second else "gemma",
        "hidden_size": llm.width,
        "num_hidden_layers": llm.depth,
        "intermediate_size": llm.mlp_dim,
        "num_attention_heads": llm.num_heads,
        "num_key_value_heads": llm.num_kv_heads,
        "head_dim": llm.head_dim,
        "vocab_size": llm.vocab_size,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "attention_bias": False,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
        "num_image_tokens": config.num_patches,
        "dtype": dtype,
        **special_ids,
    }
    if second:
        text |= {
            "query_pre_attn_scalar": llm.query_scale_dim or llm.head_dim,
            "attn_logit_softcapping": llm.attn_logits_softcap,
            # No layer has a window; older versions, which do not read layer_types, get one that
            # spans all positions.
            "layer_types": ["full_attention"] * llm.depth,
            "sliding_window": 8192,
        }
    if second or llm.final_logits_softcap:
        text["final_logit_softcapping"] = llm.final_logits_softcap
    return {
        "architectures": ["PaliGemmaForConditionalGeneration"],
        "model_type": "paligemma",
        "dtype": dtype,
        "torch_dtype": dtype,  # the name before transformers 4.56
        "hidden_size": llm.width,
        "projection_dim": llm.width,
        "vocab_size": llm.vocab_size,
        "image_token_index": image_token_id,
        "tie_word_embeddings": True,
        **special_ids,
        "text_config": text,
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": img.width,
            "num_hidden_layers": img.depth,
            "intermediate_size": img.mlp_dim,
            "num_attention_heads": img.num_heads,
            "num_channels": 3,
            "image_size": config.image_size,
            "patch_size": img.patch_size,
            "num_image_tokens": config.num_patches,
            "projection_dim": llm.width,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-6,
            "vision_use_head": False,
            "dtype": dtype,
        },
    }


def image_token(vocab_rows: int, tokenizer_size: int | None) -> int:
    """The id that stands for an image patch in transformers' input.

    The first id after the tokenizer's: a padding row of the embedding where there is one (257,152
    of 257,216 in the official models). Where there is none, an id beyond the embedding, for which
    transformers looks up no row (`PaliGemmaModel.forward`): inventing rows would invent logits,
    which could win.
    """
    if tokenizer_size is None:
        tokenizer_size = VOCAB_SIZE if vocab_rows == PADDED_VOCAB_SIZE else vocab_rows
    return tokenizer_size
