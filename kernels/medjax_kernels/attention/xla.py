"""Attention for any device that XLA compiles for, V100 and CPU included.

A block of queries at a time, against all keys: the logits alive are [B, N, block, S], so memory
grows linearly with the sequence. The backward pass recomputes them from the log-sum-exp that the
forward pass keeps (Dao et al., FlashAttention, arXiv:2205.14135; Rabe and Staats,
arXiv:2112.05682).

Inside, heads come before positions, and the G query heads of a key/value head form one matrix with
their queries: XLA has fast batched matmuls for [B, K, G * T, H] on every device, and slow loops for
the same sums in other orders (5 times slower on a CPU for multi-query attention).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from medjax_kernels.attention.options import Options
from medjax_kernels.attention.tokens import Tokens, allowed, slice_tokens

QUERY_BLOCK = 256
_NEVER = jnp.iinfo(jnp.int32).min


def attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    queries: Tokens,
    keys: Tokens,
    options: Options,
) -> Float[Array, "B T N H"]:
    """See `api.attention`."""
    batch, length, heads, width = q.shape
    kv_heads = k.shape[2]
    block = min(length, QUERY_BLOCK)
    tail = -length % block
    q = jnp.pad(q, ((0, 0), (0, tail), (0, 0), (0, 0)))
    queries = _pad_queries(queries, tail)
    q = q.reshape(batch, length + tail, kv_heads, heads // kv_heads, width)
    q = q.transpose(0, 2, 3, 1, 4)  # [B, K, G, T, H]
    k, v = (x.transpose(0, 2, 1, 3) for x in (k, v))  # [B, K, S, H]
    out = _attention(q, k, v, queries, keys, options, block)
    out = out.transpose(0, 3, 1, 2, 4).reshape(batch, length + tail, heads, width)
    return out[:, :length]


def _pad_queries(queries: Tokens, tail: int) -> Tokens:
    if not tail:
        return queries
    fill = (_NEVER, _NEVER, _NEVER, 0, False)
    return Tokens(
        *(
            None if x is None else jnp.pad(x, ((0, 0), (0, tail)), constant_values=value)
            for x, value in zip(queries, fill, strict=True)
        )
    )


def _matmul(equation: str, a: Array, b: Array) -> Float[Array, "..."]:
    """Sums over G and T or S in float32, as a batched matmul: G is folded into T."""

    def fold(x):
        return x.reshape(*x.shape[:2], -1, x.shape[-1]) if x.ndim == 5 else x

    return jnp.einsum(equation, fold(a), fold(b), preferred_element_type=jnp.float32)


class _Rows(NamedTuple):
    """Capped logits of a block of queries, with what their softmax needs."""

    logits: Float[Array, "B K G T S"]
    allowed: Bool[Array, "B 1 1 T S"] | None


def _rows(q, k, queries: Tokens, keys: Tokens, options) -> _Rows:
    logits = _matmul("bkmh,bksh->bkms", q, k).reshape(*q.shape[:4], k.shape[2]) * options.scale
    if options.soft_cap is not None:
        logits = options.soft_cap * jnp.tanh(logits / options.soft_cap)
    may = allowed(queries, keys, options.window)
    return _Rows(logits, None if may is None else may[:, None, None])


def _forward_block(q, k, v, queries, keys, options):
    """Output [B, K, G, T, H] and log-sum-exp [B, K, G, T] of one block of queries."""
    logits, may = _rows(q, k, queries, keys, options)
    if may is not None:
        logits = jnp.where(may, logits, -jnp.inf)
    top = jnp.max(logits, axis=-1, keepdims=True)
    top = jnp.where(jnp.isfinite(top), top, 0.0)  # a row that may attend to nothing
    weights = jnp.exp(logits - top)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    total = jnp.where(total == 0.0, 1.0, total)
    out = _matmul("bkms,bksh->bkmh", (weights / total).astype(v.dtype), v)
    return out.reshape(q.shape).astype(q.dtype), (top + jnp.log(total))[..., 0]


def _backward_block(q, k, v, queries, keys, out, lse, d_out, options):
    """Gradients of one block: dq of the block, and the block's share of dk and dv (float32)."""
    logits, may = _rows(q, k, queries, keys, options)
    probs = jnp.exp(logits - lse[..., None])
    if may is not None:
        probs = jnp.where(may, probs, 0.0)
    d_v = _matmul("bkms,bkmh->bksh", probs.astype(v.dtype), d_out)
    d_probs = _matmul("bkmh,bksh->bkms", d_out, v).reshape(probs.shape)
    delta = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), axis=-1, keepdims=True)
    d_logits = probs * (d_probs - delta)
    if options.soft_cap is not None:
        d_logits = d_logits * (1.0 - jnp.square(logits / options.soft_cap))
    d_logits = (d_logits * options.scale).astype(q.dtype)
    d_q = _matmul("bkms,bksh->bkmh", d_logits, k).reshape(q.shape)
    d_k = _matmul("bkms,bkmh->bksh", d_logits, q)
    return d_q.astype(q.dtype), d_k, d_v


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _attention(q, k, v, queries, keys, options, block):
    return _forward(q, k, v, queries, keys, options, block)[0]


def _cut(x, index, block):
    """Queries `index * block` and on, `block` of them, of an array [B, K, G, T, ...]."""
    return jax.lax.dynamic_slice_in_dim(x, index * block, block, axis=3)


def _join(parts):
    """[blocks, B, K, G, block, ...] -> [B, K, G, blocks * block, ...]."""
    parts = jnp.moveaxis(parts, 0, 3)
    return parts.reshape(*parts.shape[:3], -1, *parts.shape[5:])


def _forward(q, k, v, queries, keys, options, block):
    blocks = q.shape[3] // block
    if blocks == 1:
        out, lse = _forward_block(q, k, v, queries, keys, options)
        return out, (q, k, v, queries, keys, out, lse)

    def step(_, index):
        tokens = slice_tokens(queries, index * block, block)
        part = _cut(q, index, block)
        return None, _forward_block(part, k, v, tokens, keys, options)

    _, parts = jax.lax.scan(step, None, jnp.arange(blocks))
    out, lse = map(_join, parts)
    return out, (q, k, v, queries, keys, out, lse)


def _backward(options, block, residuals, d_out):
    q, k, v, queries, keys, out, lse = residuals
    blocks = q.shape[3] // block
    if blocks == 1:
        d_q, d_k, d_v = _backward_block(q, k, v, queries, keys, out, lse, d_out, options)
        return d_q, d_k.astype(k.dtype), d_v.astype(v.dtype), None, None

    def step(carry, index):
        parts = [_cut(x, index, block) for x in (q, out, lse, d_out)]
        tokens = slice_tokens(queries, index * block, block)
        part_q, part_out, part_lse, part_d_out = parts
        d_q, d_k, d_v = _backward_block(
            part_q, k, v, tokens, keys, part_out, part_lse, part_d_out, options
        )
        return (carry[0] + d_k, carry[1] + d_v), d_q

    zeros = (jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32))
    (d_k, d_v), d_q = jax.lax.scan(step, zeros, jnp.arange(blocks))
    return _join(d_q), d_k.astype(k.dtype), d_v.astype(v.dtype), None, None


_attention.defvjp(_forward, _backward)
