"""How much memory the decoder's keys and values take, which grouped-query attention makes less of.

Two arrays, keys and values, of L layers and K heads of H numbers for each token (arXiv:2305.13245);
how many heads ask for them does not matter.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from medjax.decoding.fourm import sequences
from medjax.decoding.fourm.passes import Passes
from medjax.decoding.fourm.sequences import Memory
from medjax.models.fourm import EncoderInput, FourM, FourMConfig
from medjax.models.layers import Dtype


class CacheSize(NamedTuple):
    """Bytes of keys and values.

    Attributes:
      past: of the tokens that the decoder has written, or has room for.
      context: of what the encoder has read.
    """

    past: int
    context: int


def cache_size(memory: Memory) -> CacheSize:
    """The size of what a decoder holds, of arrays or of their shapes alone."""

    def size(tree) -> int:
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))

    return CacheSize(size(memory.past), size(memory.context))


def size_by_formula(config: FourMConfig, context: int, room: int, dtype: Dtype) -> CacheSize:
    """What one sample's must be; the arguments are those of `abstract_memory`."""
    token = 2 * config.decoder_depth * config.kv_heads * config.head_dim * jnp.dtype(dtype).itemsize
    return CacheSize(token * room, token * (context + config.num_register_tokens))


def memory_of(model: FourM, context: int, room: int) -> Memory:
    """What the decoder holds of one sample, of which the encoder has read blank tokens.

    Args:
      context: how many tokens, register tokens not counted.
      room: for how many tokens that the decoder writes.
    """
    graphdef, state = nnx.split(model)
    return jax.jit(lambda state: _prefill(nnx.merge(graphdef, state), context, room))(state)


def abstract_memory(config: FourMConfig, context: int, room: int, dtype: Dtype) -> Memory:
    """The shapes and dtypes of `memory_of`, for a model too large to be made.

    Args:
      dtype: of the model's matmuls, and so of keys and values.
    """
    model = nnx.eval_shape(lambda: FourM(config, dtype=dtype, param_dtype=dtype, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(model)
    return jax.eval_shape(lambda state: _prefill(nnx.merge(graphdef, state), context, room), state)


def _prefill(model: FourM, context: int, room: int) -> Memory:
    nothing = jnp.zeros((1, context), jnp.int32)
    inputs = EncoderInput(nothing, nothing, nothing, nothing.astype(bool))
    features = {
        m.name: jnp.zeros((1, 1, m.features)) for m in model.config.modalities if not m.has_ids
    }
    return sequences.prefill(model, Passes(inputs, features, jnp.zeros(0)), room)
