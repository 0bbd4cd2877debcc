"""Names and layouts of 4M's weights in apple/ml-4m: the one place that knows them.

The original keeps queries, keys and values in one tensor, and twice what two of its modules share:
a modality's embedding in encoder and decoder, an output layer that is its token embedding. It also
keeps what never changes: fixed positions, and zero biases of norms that have none.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from medjax.models.fourm import FourMConfig, Modality
from medjax.models.fourm.positions import fixed_positions

_MLP = {
    False: {"up_proj": "fc1", "down_proj": "fc2"},
    True: {"gate_proj": "fc1", "down_proj": "fc2", "up_proj": "fc3"},
}


class Piece(NamedTuple):
    """A parameter of medjax, or one layer of a stacked one."""

    parameter: str
    layer: int | None = None

    def shape(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
        """Its shape, given those of the parameters."""
        shape = shapes[self.parameter]
        return shape if self.layer is None else shape[1:]

    def of(self, array: np.ndarray) -> np.ndarray:
        """Its values, given those of the parameter."""
        return array if self.layer is None else array[self.layer]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of the original and the parameters that it is made of.

    Attributes:
      pieces: joined along the tensor's first axis, outputs; mostly there is one.
      linear: whether pieces are [in, out] here and [out, in] there.
      ones: axes of size one that the tensor has in front.
    """

    pieces: tuple[Piece, ...]
    linear: bool = False
    ones: int = 0

    def shape(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
        """The tensor's shape, given those of the parameters."""
        parts = [piece.shape(shapes)[:: -1 if self.linear else 1] for piece in self.pieces]
        return (1,) * self.ones + (sum(part[0] for part in parts), *parts[0][1:])

    def join(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """The tensor, given an array for each piece."""
        parts = [array.T if self.linear else array for array in arrays]
        joined = np.concatenate(parts) if len(parts) > 1 else parts[0]
        return joined.reshape((1,) * self.ones + joined.shape)

    def part(
        self, tensor: np.ndarray, index: int, shapes: Mapping[str, tuple[int, ...]]
    ) -> np.ndarray:
        """The array of one piece."""
        rows = [piece.shape(shapes)[-1 if self.linear else 0] for piece in self.pieces]
        start = sum(rows[:index])
        array = tensor.reshape(tensor.shape[self.ones :])[start : start + rows[index]]
        return array.T if self.linear else array


def tensors(config: FourMConfig) -> dict[str, Tensor]:
    """Every tensor that holds parameters, by the original's name."""
    found: dict[str, Tensor] = {
        "mask_token": Tensor((Piece("decoder/mask_token"),), ones=2),
        "decoder_proj_context.weight": Tensor((Piece("decoder/context_proj/kernel"),), True),
        "decoder_proj_context.bias": Tensor((Piece("decoder/context_proj/bias"),)),
    }
    if config.num_register_tokens:
        found["register_tokens"] = Tensor((Piece("encoder/register_tokens"),), ones=1)
    for theirs, ours, norm_layer in _norms(config):
        found[f"{theirs}.weight"] = Tensor((Piece(f"{ours}/scale", norm_layer),))
        if config.norm_bias:
            found[f"{theirs}.bias"] = Tensor((Piece(f"{ours}/bias", norm_layer),))
    for theirs, names, use_bias, layer in _linears(config):
        kernels = tuple(Piece(f"{name}/kernel", layer) for name in names)
        found[f"{theirs}.weight"] = Tensor(kernels, linear=True)
        if use_bias:
            found[f"{theirs}.bias"] = Tensor(tuple(Piece(f"{n}/bias", layer) for n in names))
    for side, modality in _sides(config):
        found |= _embedding(config, side, modality)
    return found


def constants(config: FourMConfig) -> dict[str, np.ndarray]:
    """Every tensor that holds no parameter, float32, by the original's name."""
    found = {}
    for side, modality in _sides(config):
        if not modality.learned_positions:
            rows = fixed_positions(modality, config.width)
            found[f"{side}_embeddings.{modality.name}.pos_emb"] = rows[None]
    if not config.norm_bias:
        for theirs, ours, _ in _norms(config):
            width = config.head_dim if ours.endswith(("q_norm", "k_norm")) else config.width
            found[f"{theirs}.bias"] = np.zeros(width, np.float32)
    return found


def output_layers(config: FourMConfig) -> list[tuple[str, str]]:
    """(token embedding, output layer) of every target."""
    places = [f"decoder_embeddings.{name}" for name in config.targets]
    return [(f"{place}.token_emb.weight", f"{place}.to_logits.weight") for place in places]


def _blocks(config: FourMConfig) -> Iterator[tuple[str, str, int]]:
    """(their block, our blocks, layer)."""
    for side, depth in (("encoder", config.encoder_depth), ("decoder", config.decoder_depth)):
        for layer in range(depth):
            yield f"{side}.{layer}", f"{side}/layers", layer


def _attentions(side: str) -> dict[str, str]:
    """{ours: theirs}."""
    if side.startswith("encoder"):
        return {"self_attn": "attn"}
    return {"self_attn": "self_attn", "cross_attn": "cross_attn"}


def _norms(config: FourMConfig) -> Iterator[tuple[str, str, int | None]]:
    """(theirs, ours, layer) of every LayerNorm."""
    for side in ("encoder", "decoder"):
        yield f"{side}_norm", f"{side}/norm", None
    for block, stack, layer in _blocks(config):
        names = {"norm1": "layer_norm1", "norm2": "layer_norm2"}
        if block.startswith("decoder"):
            names |= {"query_norm": "query_norm", "context_norm": "context_norm"}
        if config.qk_norm:
            for ours, theirs in _attentions(block).items():
                names |= {f"{theirs}.{n}": f"{ours}/{n}" for n in ("q_norm", "k_norm")}
        for theirs, ours in names.items():
            yield f"{block}.{theirs}", f"{stack}/{ours}", layer


def _linears(config: FourMConfig) -> Iterator[tuple[str, list[str], bool, int]]:
    """(theirs, ours, whether there is a bias, layer) of every linear layer of the blocks."""
    for block, stack, layer in _blocks(config):
        for ours, theirs in _attentions(block).items():
            fused = {"qkv": "qkv"} if ours == "self_attn" else {"q": "q", "kv": "kv"}
            for name, letters in fused.items():
                projections = [f"{stack}/{ours}/{letter}_proj" for letter in letters]
                yield f"{block}.{theirs}.{name}", projections, config.qkv_bias, layer
            yield f"{block}.{theirs}.proj", [f"{stack}/{ours}/o_proj"], config.proj_bias, layer
        for ours, theirs in _MLP[config.gated].items():
            yield f"{block}.mlp.{theirs}", [f"{stack}/mlp/{ours}"], config.mlp_bias, layer


def _sides(config: FourMConfig) -> Iterator[tuple[str, Modality]]:
    for side, names in (("encoder", config.inputs), ("decoder", config.targets)):
        for name in names:
            yield side, config.modality(name)


def _embedding(config: FourMConfig, side: str, modality: Modality) -> dict[str, Tensor]:
    """What encoder or decoder keeps of one modality."""
    name = modality.name
    ours, theirs = f"{side}_embeddings", f"{side}_embeddings.{name}"
    shared = config.share_modality_embeddings and name in config.inputs
    owner = "encoder_embeddings" if shared else ours
    found = {f"{theirs}.mod_emb": Tensor((Piece(f"{owner}/modality_embedding/{name}"),), ones=2)}
    if modality.learned_positions:
        piece = Piece(f"{ours}/position_embedding/{name}")
        found[f"{theirs}.pos_emb"] = Tensor((piece,), ones=1)
    if modality.has_ids:
        table = Piece(f"{ours}/embed_tokens/{name}")
        found[f"{theirs}.token_emb.weight"] = Tensor((table,))
        if side == "decoder":
            head = table if config.tie_embeddings else Piece(f"lm_head/{name}")
            found[f"{theirs}.to_logits.weight"] = Tensor((head,))
    else:
        layer = "proj" if modality.is_image else "emb_proj"
        found[f"{theirs}.{layer}.weight"] = Tensor(
            (Piece(f"{ours}/projection/{name}/kernel"),), True
        )
        if not modality.is_image:
            found[f"{theirs}.{layer}.bias"] = Tensor((Piece(f"{ours}/projection/{name}/bias"),))
    return found
