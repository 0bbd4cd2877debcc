"""Drawing tokens from logits: temperature, top-k, top-p (arXiv:1904.09751)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from medjax.decoding.fourm.schedules import COLDEST


class Chosen(NamedTuple):
    """Tokens, and how sure the model is of them.

    Attributes:
      tokens: int32 ids.
      drawn: log-probability of a token among those it was drawn from, at the temperature.
      own: log-probability that the model gives it, whatever the temperature.
    """

    tokens: Int[Array, "..."]
    drawn: Float[Array, "..."]
    own: Float[Array, "..."]


def choose(
    keys: Key[Array, "B"],
    logits: Float[Array, "B ... V"],
    temperature: Float[Array, "B"],
    *,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> Chosen:
    """Draws a token for each place; row b's depend on `keys[b]` and its own logits alone.

    As in apple/ml-4m, top-k goes before top-p, and both before the temperature.

    Args:
      temperature: of each row; 0 takes the most probable token.
      top_k: how many of the most probable tokens there are to draw from; all if None.
      top_p: the fewest most probable tokens are drawn from that together reach this probability.
    """
    ids, values = None, logits
    if top_k is not None or top_p < 1.0:
        values, ids = jax.lax.top_k(logits, min(top_k or logits.shape[-1], logits.shape[-1]))
    if top_p < 1.0:
        probs = jax.nn.softmax(values)
        before = jnp.cumsum(probs, axis=-1) - probs
        first = jnp.arange(values.shape[-1]) == 0
        values = jnp.where((before < top_p) | first, values, -jnp.inf)
    heat = temperature.reshape(-1, *[1] * (logits.ndim - 1))
    noise = jax.vmap(lambda key: jax.random.gumbel(key, values.shape[1:]))(keys)
    # The largest of values / heat + noise (arXiv:1611.01144), also where heat is zero.
    index = jnp.argmax(values + heat * noise, axis=-1)[..., None]
    scaled = (values - jnp.max(values, axis=-1, keepdims=True)) / jnp.maximum(heat, COLDEST)
    tokens = index if ids is None else jnp.take_along_axis(ids, index, axis=-1)

    def at(logits, index):
        return jnp.take_along_axis(jax.nn.log_softmax(logits), index, axis=-1)[..., 0]

    return Chosen(tokens[..., 0].astype(jnp.int32), at(scaled, index), at(logits, tokens))
