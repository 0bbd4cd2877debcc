"""Names and layouts of PaliGemma's weights in transformers: the one place that knows them.

Three spellings are in use for the same weights:

    official checkpoints   language_model.model.layers...  vision_tower.vision_model.encoder...
    transformers 5 writes  language_model.model.layers...  vision_tower.encoder...
    its modules, and PEFT  model.language_model.layers...  model.vision_tower.encoder...

`canonical` maps all to the last one, without its leading `model.`. Weights are written in the
official spelling, which every version loads.
"""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from medjax.models.config import PaliGemmaConfig

_TEXT_NORMS = {
    "pre_attention_norm": ("input_layernorm", "input_layernorm"),
    "post_attention_norm": (None, "post_attention_layernorm"),
    # Gemma 1 calls the norm before the MLP after what precedes it.
    "pre_ffw_norm": ("post_attention_layernorm", "pre_feedforward_layernorm"),
    "post_ffw_norm": (None, "post_feedforward_layernorm"),
}
TEXT_LINEARS = {
    **{name: f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")},
    **{name: f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")},
}
IMAGE_LINEARS = {
    **{name: f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj")},
    **{name: f"mlp.{name}" for name in ("fc1", "fc2")},
}
_TEXT_LAYERS, _IMAGE_LAYERS = "language_model.layers", "vision_tower.encoder.layers"
EMBEDDING = "language_model.embed_tokens.weight"
LM_HEADS = ("lm_head.weight", "language_model.lm_head.weight")  # tied to the embedding


def canonical(name: str) -> str:
    """A weight's or module's name in any spelling -> `language_model.layers.0...` and so on."""
    name = name.removeprefix("model.")
    name = re.sub(r"^language_model\.model\.", "language_model.", name)
    return re.sub(r"^vision_tower\.vision_model\.", "vision_tower.", name)


def official(name: str) -> str:
    """A canonical weight name as the official checkpoints spell it."""
    name = re.sub(r"^language_model\.", "language_model.model.", name)
    return re.sub(r"^vision_tower\.", "vision_tower.vision_model.", name)


@dataclasses.dataclass(frozen=True)
class Weight:
    """One parameter of medjax and the tensors of transformers that hold it.

    Attributes:
      names: canonical names: one for each layer of a stack, else a single one.
      stacked: whether the parameter has a leading axis of layers.
      kind: "as_is"; "linear", [in, out] here and [out, in] there; "patches", [I, D] here, with I =
        (y, x, channel), and a convolution's [D, 3, y, x] there.
    """

    names: Sequence[str]
    stacked: bool
    kind: str = "as_is"

    def tensor_shape(self, shape: tuple[int, ...], patch_size: int) -> tuple[int, ...]:
        """Shape of one tensor, given that of the parameter."""
        shape = shape[1:] if self.stacked else shape
        if self.kind == "linear":
            return shape[::-1]
        if self.kind == "patches":
            return (shape[1], 3, patch_size, patch_size)
        return shape

    def to_tensor(self, array: np.ndarray, patch_size: int) -> np.ndarray:
        """One layer of a parameter -> one tensor."""
        if self.kind == "linear":
            return array.T
        if self.kind == "patches":
            return array.reshape(patch_size, patch_size, 3, -1).transpose(3, 2, 0, 1)
        return array

    def from_tensor(self, array: np.ndarray) -> np.ndarray:
        """One tensor -> one layer of a parameter."""
        if self.kind == "linear":
            return array.T
        if self.kind == "patches":
            return array.transpose(2, 3, 1, 0).reshape(-1, array.shape[0])
        return array


def weights(config: PaliGemmaConfig) -> dict[str, Weight]:
    """Every parameter of a model, by medjax's name."""
    out = {
        "language_model/embed_tokens": Weight([EMBEDDING], False),
        "language_model/final_norm/scale": Weight(["language_model.norm.weight"], False),
        "multi_modal_projector/kernel": Weight(
            ["multi_modal_projector.linear.weight"], False, "linear"
        ),
        "multi_modal_projector/bias": Weight(["multi_modal_projector.linear.bias"], False),
        "vision_tower/patch_embedding/kernel": Weight(
            ["vision_tower.embeddings.patch_embedding.weight"], False, "patches"
        ),
        "vision_tower/patch_embedding/bias": Weight(
            ["vision_tower.embeddings.patch_embedding.bias"], False
        ),
        "vision_tower/position_embedding": Weight(
            ["vision_tower.embeddings.position_embedding.weight"], False
        ),
        "vision_tower/post_layernorm/scale": Weight(["vision_tower.post_layernorm.weight"], False),
        "vision_tower/post_layernorm/bias": Weight(["vision_tower.post_layernorm.bias"], False),
    }

    def stack(ours: str, theirs: str, leaf: str, kind: str = "as_is"):
        image = ours.startswith("vision_tower/")
        depth = config.img.depth if image else config.llm.depth
        layers = _IMAGE_LAYERS if image else _TEXT_LAYERS
        out[ours] = Weight([f"{layers}.{i}.{theirs}.{leaf}" for i in range(depth)], True, kind)

    for theirs in TEXT_LINEARS.values():
        path = f"language_model/layers/{theirs.replace('.', '/')}"
        stack(f"{path}/kernel", theirs, "weight", "linear")
    for ours, by_generation in _TEXT_NORMS.items():
        norm = by_generation[config.generation - 1]
        if norm is not None:
            stack(f"language_model/layers/{ours}/scale", norm, "weight")
    for theirs in IMAGE_LINEARS.values():
        path = f"vision_tower/layers/{theirs.replace('.', '/')}"
        stack(f"{path}/kernel", theirs, "weight", "linear")
        stack(f"{path}/bias", theirs, "bias")
    for norm in ("layer_norm1", "layer_norm2"):
        stack(f"vision_tower/layers/{norm}/scale", norm, "weight")
        stack(f"vision_tower/layers/{norm}/bias", norm, "bias")
    return out


def module_path(path: str, layer: int) -> str:
    """The canonical module of one layer of a stacked linear layer of medjax.

    "language_model/layers/mlp/up_proj", 3 -> "language_model.layers.3.mlp.up_proj".
    """
    tower, _, rest = path.split("/", 2)
    layers = _TEXT_LAYERS if tower == "language_model" else _IMAGE_LAYERS
    return f"{layers}.{layer}.{rest.replace('/', '.')}"


_MODULE = re.compile(
    rf"({re.escape(_TEXT_LAYERS)}|{re.escape(_IMAGE_LAYERS)})\.(\d+)\.(self_attn|mlp)\.(\w+)"
)


def layer_path(module: str) -> tuple[str, int] | None:
    """The inverse of `module_path`, for a module in any spelling; None for other modules."""
    match = _MODULE.fullmatch(canonical(module))
    if match is None:
        return None
    layers, index, block, name = match.groups()
    tower = layers.split(".", 1)[0]
    if name not in (TEXT_LINEARS if tower == "language_model" else IMAGE_LINEARS):
        return None
    return f"{tower}/layers/{block}/{name}", int(index)
