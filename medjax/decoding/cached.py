"""The model as decoding sees it: read a prompt once, then one token at a time.

Prompts of different lengths share a batch. They start at the left and are filled up at the end; the
slots of the padding stay in the cache and are never attended to:

    slot       0 .. P-1   P .. P+T-1           P+T ..
    row 0      image      <bos> a \\n  -   -   new tokens
    row 1      image      <bos> b c d \\n      new tokens
    position   0 .. P-1   P ..                 after the row's last prompt token, without a gap
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
from medjax_kernels import Tokens

from medjax.models.gemma import Cache, empty_cache
from medjax.models.layers import Dtype
from medjax.models.paligemma import PaliGemma, prefix_lm


class Memory(NamedTuple):
    """What has been read so far.

    Attributes:
      cache: keys and values.
      valid: which slots of the cache hold a token of the row.
      position: of the next token.
      slot: where the next token goes, the same for all rows.
    """

    cache: Cache
    valid: Bool[Array, "B S"]
    position: Int[Array, "B"]
    slot: Int[Array, ""]


def prefill(
    model: PaliGemma,
    image: Float[Array, "B Y X 3"],
    tokens: Int[Array, "B T"],
    mask_ar: Int[Array, "B T"],
    mask_input: Int[Array, "B T"],
    room: int,
    cache_dtype: Dtype,
) -> tuple[Float[Array, "B V"], Memory]:
    """Reads images and prompts; leaves room for `room` more tokens.

    Args:
      mask_input: 1 for a prompt's tokens, which stand at the left, 0 for what comes after them.

    Returns:
      Logits of each row's first new token, float32, and the memory.
    """
    llm = model.language_model
    x = model.embed(image, tokens)
    batch, length = x.shape[:2]
    patches = length - tokens.shape[1]
    blocks = prefix_lm(patches, mask_ar)
    image_valid = jnp.ones((batch, patches), bool)
    valid = jnp.concatenate([image_valid, mask_input.astype(bool)], axis=1)
    tail = ((0, 0), (0, room))
    valid = jnp.pad(valid, tail)
    hidden, cache = llm(
        x,
        jnp.broadcast_to(jnp.arange(length), (batch, length)),
        Tokens(block=blocks),
        keys=Tokens(block=jnp.pad(blocks, tail), valid=valid),
        cache=empty_cache(llm.config, batch, length + room, cache_dtype),
    )
    assert cache is not None  # for one went in
    position = jnp.sum(valid, axis=1, dtype=jnp.int32)
    last = jnp.take_along_axis(hidden, position[:, None, None] - 1, axis=1)[:, 0]
    return llm.logits(last), Memory(cache, valid, position, jnp.int32(length))


def step(
    model: PaliGemma, memory: Memory, token: Int[Array, "B"]
) -> tuple[Float[Array, "B V"], Memory]:
    """Reads one more token per row; returns the logits of the next, float32."""
    llm = model.language_model
    valid = memory.valid | (jnp.arange(memory.valid.shape[1]) == memory.slot)
    hidden, cache = llm(
        llm.embed(token[:, None]),
        memory.position[:, None],
        Tokens(),  # everything valid is in the past
        keys=Tokens(valid=valid),
        cache=memory.cache,
        slot=memory.slot,
    )
    assert cache is not None
    memory = Memory(cache, valid, memory.position + 1, memory.slot + 1)
    return llm.logits(hidden[:, 0]), memory


def take_rows(memory: Memory, rows: Int[Array, "C"]) -> Memory:
    """The memory of the named rows, in that order; a row may be named more than once."""
    return Memory(
        jax.tree.map(lambda x: jnp.take(x, rows, axis=1), memory.cache),
        jnp.take(memory.valid, rows, axis=0),
        jnp.take(memory.position, rows, axis=0),
        memory.slot,
    )
