"""Attention in the plainest words, for reading and for tests."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax_kernels.attention.options import Options
from medjax_kernels.attention.tokens import Tokens, allowed


def attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    queries: Tokens,
    keys: Tokens,
    options: Options,
) -> Float[Array, "B T N H"]:
    """All T x S logits at once, in float32; see `api.attention`."""
    group = q.shape[2] // k.shape[2]
    k, v = (jnp.repeat(x.astype(jnp.float32), group, axis=2) for x in (k, v))
    logits = jnp.einsum("BTNH,BSNH->BNTS", q.astype(jnp.float32), k) * options.scale
    if options.soft_cap is not None:
        logits = options.soft_cap * jnp.tanh(logits / options.soft_cap)
    may = allowed(queries, keys, options.window)
    if may is not None:
        # A finite low value: the softmax of a row that may attend to nothing stays finite too.
        logits = jnp.where(may[:, None], logits, jnp.finfo(jnp.float32).min)
    probs = jax.nn.softmax(logits, axis=-1)
    if may is not None:
        probs = jnp.where(may[:, None], probs, 0.0)
    return jnp.einsum("BNTS,BSNH->BTNH", probs, v).astype(q.dtype)
