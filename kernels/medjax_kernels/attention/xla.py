"""Attention for any device that XLA compiles for, V100 and CPU included.

A block of queries at a time, against all keys: the logits alive are [B, N, block, S], so memory
grows linearly with the sequence. The backward pass recomputes them from the log-sum-exp that the
forward pass keeps (Dao et al., FlashAttention, arXiv:2205.14135; Rabe and Staats,
arXiv:2112.05682).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from medjax_kernels.attention.tokens import Tokens, allowed, slice_tokens

QUERY_BLOCK = 256
_NEVER = jnp.iinfo(jnp.int32).min


def attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    queries: Tokens,
    keys: Tokens,
    scale: float,
    soft_cap: float | None,
    query_block: int = QUERY_BLOCK,
) -> Float[Array, "B T N H"]:
    """See `api.attention`. `query_block`: how many queries' logits are alive at once."""
    length, heads, width = q.shape[1:]
    kv_heads = k.shape[2]
    block = min(length, query_block)
    tail = -length % block
    q = jnp.pad(q, ((0, 0), (0, tail), (0, 0), (0, 0)))
    queries = _pad_queries(queries, tail)
    # [B, T, K, G, H]: a key/value head beside the query heads that share it.
    q = q.reshape(*q.shape[:2], kv_heads, heads // kv_heads, width)
    out = _attention(q, k, v, queries, keys, scale, soft_cap, block)
    return out.reshape(out.shape[0], -1, heads, width)[:, :length]


def _pad_queries(queries: Tokens, tail: int) -> Tokens:
    if not tail:
        return queries
    fill = Tokens(block=_NEVER, segment=_NEVER, valid=False)
    return jax.tree.map(
        lambda x, value: jnp.pad(x, ((0, 0), (0, tail)), constant_values=value),
        queries,
        Tokens(*(None if x is None else f for x, f in zip(queries, fill, strict=True))),
    )


class _Rows(NamedTuple):
    """Capped logits of a block of queries, with what their softmax needs."""

    logits: Float[Array, "B K G T S"]
    allowed: Bool[Array, "B 1 1 T S"] | None


def _rows(q, k, queries: Tokens, keys: Tokens, scale, soft_cap) -> _Rows:
    logits = jnp.einsum("BTKGH,BSKH->BKGTS", q, k, preferred_element_type=jnp.float32) * scale
    if soft_cap is not None:
        logits = soft_cap * jnp.tanh(logits / soft_cap)
    may = allowed(queries, keys)
    return _Rows(logits, None if may is None else may[:, None, None])


def _keep(may, x):
    return x if may is None else jnp.where(may, x, 0.0)


def _forward_block(q, k, v, queries, keys, scale, soft_cap):
    """Output [B, T, K, G, H] and log-sum-exp [B, K, G, T] of one block of queries."""
    logits, may = _rows(q, k, queries, keys, scale, soft_cap)
    if may is not None:
        logits = jnp.where(may, logits, -jnp.inf)
    top = jnp.max(logits, axis=-1, keepdims=True)
    top = jnp.where(jnp.isfinite(top), top, 0.0)  # a row that may attend to nothing
    weights = jnp.exp(logits - top)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    total = jnp.where(total == 0.0, 1.0, total)
    probs = (weights / total).astype(v.dtype)
    out = jnp.einsum("BKGTS,BSKH->BTKGH", probs, v, preferred_element_type=jnp.float32)
    return out.astype(q.dtype), (top + jnp.log(total))[..., 0]


def _backward_block(q, k, v, queries, keys, out, lse, d_out, scale, soft_cap):
    """Gradients of one block: dq of the block, and the block's share of dk and dv (float32)."""
    logits, may = _rows(q, k, queries, keys, scale, soft_cap)
    probs = _keep(may, jnp.exp(logits - lse[..., None]))
    low = probs.astype(v.dtype)
    d_v = jnp.einsum("BKGTS,BTKGH->BSKH", low, d_out, preferred_element_type=jnp.float32)
    d_probs = jnp.einsum("BTKGH,BSKH->BKGTS", d_out, v, preferred_element_type=jnp.float32)
    delta = jnp.einsum("BTKGH,BTKGH->BKGT", d_out.astype(jnp.float32), out.astype(jnp.float32))
    d_logits = probs * (d_probs - delta[..., None])
    if soft_cap is not None:
        d_logits = d_logits * (1.0 - jnp.square(logits / soft_cap))
    d_logits = (d_logits * scale).astype(q.dtype)
    d_q = jnp.einsum("BKGTS,BSKH->BTKGH", d_logits, k, preferred_element_type=jnp.float32)
    d_k = jnp.einsum("BKGTS,BTKGH->BSKH", d_logits, q, preferred_element_type=jnp.float32)
    return d_q.astype(q.dtype), d_k, d_v


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def _attention(q, k, v, queries, keys, scale, soft_cap, block):
    return _forward(q, k, v, queries, keys, scale, soft_cap, block)[0]


def _forward(q, k, v, queries, keys, scale, soft_cap, block):
    blocks = q.shape[1] // block
    if blocks == 1:
        out, lse = _forward_block(q, k, v, queries, keys, scale, soft_cap)
        return out, (q, k, v, queries, keys, out, lse)

    def step(_, index):
        part = jax.lax.dynamic_slice_in_dim(q, index * block, block, axis=1)
        tokens = slice_tokens(queries, index * block, block)
        return None, _forward_block(part, k, v, tokens, keys, scale, soft_cap)

    _, (out, lse) = jax.lax.scan(step, None, jnp.arange(blocks))
    out, lse = _join(out, 1), _join(lse, 3)
    return out, (q, k, v, queries, keys, out, lse)


def _join(parts, axis):
    """[blocks, ..., block, ...] -> [..., blocks * block, ...] along `axis` of one part."""
    parts = jnp.moveaxis(parts, 0, axis)
    shape = parts.shape
    return parts.reshape(*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])


def _backward(scale, soft_cap, block, residuals, d_out):
    q, k, v, queries, keys, out, lse = residuals
    blocks = q.shape[1] // block
    if blocks == 1:
        d_q, d_k, d_v = _backward_block(q, k, v, queries, keys, out, lse, d_out, scale, soft_cap)
        return d_q, d_k.astype(k.dtype), d_v.astype(v.dtype), None, None

    def step(carry, index):
        def cut(x, axis=1):
            return jax.lax.dynamic_slice_in_dim(x, index * block, block, axis=axis)

        d_q, d_k, d_v = _backward_block(
            cut(q), k, v, slice_tokens(queries, index * block, block), keys,
            cut(out), cut(lse, 3), cut(d_out), scale, soft_cap,
        )  # fmt: skip
        return (carry[0] + d_k, carry[1] + d_v), d_q

    zeros = (jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32))
    (d_k, d_v), d_q = jax.lax.scan(step, zeros, jnp.arange(blocks))
    return _join(d_q, 1), d_k.astype(k.dtype), d_v.astype(v.dtype), None, None


_attention.defvjp(_forward, _backward)
