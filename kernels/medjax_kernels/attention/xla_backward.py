"""The backward pass of the `xla` implementation: logits are computed again from q, k and lse.

All tiles that a query tile meets are gone through before the next one, or all that a key tile
meets. Gradients of that side are summed for one tile at a time; those of the other side, to which
every tile adds, are whole float32 arrays until the end. They belong to the keys and values where
query heads share them, and else to the queries, which are one array where those are two.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax_kernels.attention import float16, xla_tiles
from medjax_kernels.attention.options import Options
from medjax_kernels.attention.tokens import Tokens
from medjax_kernels.attention.xla_logits import heads_first, heads_last, matmul, tile_logits
from medjax_kernels.attention.xla_tiles import Bounds, cut, cut_tokens, loop, loop_down, put


class _Side(NamedTuple):
    """The queries or the keys with all that belongs to them.

    Attributes:
      inputs: flat arrays [B, T, C] of which gradients are wanted.
      size: tokens of a tile.
      bounds: the tiles of the other side that each tile meets.
      read: a tile, heads first, by its index.
    """

    inputs: tuple[Array, ...]
    size: int
    bounds: Bounds
    read: Callable[[Any], Any]


class _Queries(NamedTuple):
    """A tile of queries; `delta` is the sum of out * d_out of each."""

    q: Float[Array, "B K G T H"]
    d_out: Float[Array, "B K G T H"]
    lse: Float[Array, "B K G T 1"]
    delta: Float[Array, "B K G T 1"]
    tokens: Tokens


class _Keys(NamedTuple):
    """A tile of keys and values."""

    k: Float[Array, "B K 1 S H"]
    v: Float[Array, "B K 1 S H"]
    tokens: Tokens


def gradients(options: Options, kv_heads: int, width: int, sizes, residuals, d_out):
    """Of q, k and v, as `custom_vjp` wants it; the arrays are flat, [B, T, N * H]."""
    q, k, v, queries, keys, out, lse = residuals
    rows, columns = sizes.backward
    lengths = (q.shape[1], k.shape[1])
    products = out.astype(jnp.float32) * d_out.astype(jnp.float32)
    delta = products.reshape(*lse.shape, width).sum(axis=-1)
    found = float16.gain(*(x.reshape(*x.shape[:2], -1, width) for x in (d_out, v)))
    gain = 1.0 if found is None else found[:, :, None, None, None]
    of_queries, of_keys = xla_tiles.bounds(queries, keys, options, lengths, sizes.backward)

    def read_queries(i) -> _Queries:
        def read(x, width):
            return heads_first(cut(x, i, rows), kv_heads, width)

        tokens = cut_tokens(queries, i, rows, lengths[0])
        return _Queries(read(q, width), read(d_out, width), read(lse, 1), read(delta, 1), tokens)

    def read_keys(j) -> _Keys:
        k_tile, v_tile = (heads_first(cut(x, j, columns), kv_heads, width) for x in (k, v))
        return _Keys(k_tile, v_tile, cut_tokens(keys, j, columns, lengths[1]))

    def of_tile(row: _Queries, column: _Keys):
        return _tile_gradients(row, column, options, gain)

    row_side = _Side((q,), rows, of_queries, read_queries)
    column_side = _Side((k, v), columns, of_keys, read_keys)
    if q.shape[2] > k.shape[2]:
        (d_q,), (d_k, d_v) = _sums(row_side, column_side, of_tile)
    else:
        (d_k, d_v), (d_q,) = _sums(column_side, row_side, lambda c, r: of_tile(r, c)[::-1])
    return d_q, d_k, d_v, None, None


def _sums(outer: _Side, inner: _Side, of_tile: Callable):
    """Gradients of both sides, summed over tiles; `inner`'s are the whole float32 arrays."""

    def visit(i, carry):
        written, whole = carry
        mine = outer.read(i)

        def meet(j, carry):
            own, whole = carry
            added, to_other = of_tile(mine, inner.read(j))
            whole = tuple(
                put(x, cut(x, j, inner.size) + heads_last(part), j)
                for x, part in zip(whole, to_other, strict=True)
            )
            return tuple(x + part for x, part in zip(own, added, strict=True)), whole

        zeros = tuple(jnp.zeros(x.shape, jnp.float32) for x in mine[: len(outer.inputs)])
        own, whole = loop(outer.bounds.of(i), meet, (zeros, whole))
        written = tuple(put(x, heads_last(d), i) for x, d in zip(written, own, strict=True))
        return written, whole

    empty = (
        tuple(jnp.zeros_like(x) for x in outer.inputs),
        tuple(jnp.zeros(x.shape, jnp.float32) for x in inner.inputs),
    )
    length = outer.inputs[0].shape[1]
    written, whole = loop_down(xla_tiles.count(length, outer.size), visit, empty)
    return written, tuple(x.astype(y.dtype) for x, y in zip(whole, inner.inputs, strict=True))


def _tile_gradients(row: _Queries, column: _Keys, options: Options, gain):
    """What a tile adds to the gradients (q,) and (k, v): heads first, float32."""
    logits, may = tile_logits(row.q, column.k, row.tokens, column.tokens, options)
    probs = jnp.exp(logits - row.lse)
    if may is not None:
        probs = jnp.where(may, probs, 0.0)
    d_v = matmul("bkms,bkmh->bksh", probs.astype(column.v.dtype), row.d_out)
    d_probs = matmul("bkmh,bksh->bkms", row.d_out, column.v).reshape(probs.shape)
    d_logits = probs * (d_probs - row.delta)
    if options.soft_cap is not None:
        d_logits = d_logits * (1.0 - jnp.square(logits / options.soft_cap))
    d_logits = (d_logits * gain).astype(row.q.dtype)
    undo = options.scale / gain
    d_q = matmul("bkms,bksh->bkmh", d_logits, column.k).reshape(row.q.shape) * undo
    d_k = matmul("bkms,bkmh->bksh", d_logits, row.q)[:, :, None] * undo
    return (d_q,), (d_k, d_v[:, :, None])
