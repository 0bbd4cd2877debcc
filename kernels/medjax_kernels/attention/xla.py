"""Attention for any device that XLA compiles for, V100 and CPU included.

Tiles of queries and keys, as in FlashAttention (Dao et al., arXiv:2205.14135; Rabe and Staats,
arXiv:2112.05682): the softmax of a tile's queries is corrected from one tile of keys to the next,
so that only one tile's logits are alive. All rows of the batch are computed together; a tile
without an allowed pair in any of them is left out.

Outside of tiles, arrays stay as they come from a layer, [B, T, N * H]: with an axis of heads, XLA
would transpose them whole, before the loops, instead of tile by tile within.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax_kernels.attention import xla_backward, xla_tiles
from medjax_kernels.attention.options import Options
from medjax_kernels.attention.tokens import Tokens
from medjax_kernels.attention.xla_logits import heads_first, heads_last, matmul, tile_logits
from medjax_kernels.attention.xla_tiles import cut, cut_tokens, loop, loop_down, put

_LOWEST = float(jnp.finfo(jnp.float32).min)


def attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    queries: Tokens,
    keys: Tokens,
    options: Options,
) -> Float[Array, "B T N H"]:
    """See `api.attention`."""
    flat = (x.reshape(*x.shape[:2], -1) for x in (q, k, v))
    sizes = xla_tiles.sizes(q, k)
    return _attention(*flat, queries, keys, options, k.shape[2], q.shape[3], sizes).reshape(q.shape)


class _Softmax(NamedTuple):
    """The softmax over the keys so far: their largest logit, and sums of exp(logit - top)."""

    top: Float[Array, "B K G T 1"]
    total: Float[Array, "B K G T 1"]
    weighted: Float[Array, "B K G T H"]

    def extended(self, logits, may, v) -> "_Softmax":
        """With the keys of one more tile."""
        if may is not None:
            logits = jnp.where(may, logits, -jnp.inf)
        top = jnp.maximum(self.top, jnp.max(logits, axis=-1, keepdims=True))
        weights = jnp.exp(logits - top)
        fading = jnp.exp(self.top - top)
        added = matmul("bkms,bksh->bkmh", weights.astype(v.dtype), v).reshape(self.weighted.shape)
        return _Softmax(
            top,
            self.total * fading + jnp.sum(weights, axis=-1, keepdims=True),
            self.weighted * fading + added,
        )


def _no_keys(q: Float[Array, "B K G T H"]) -> _Softmax:
    one = (*q.shape[:4], 1)
    # A finite low value: without an allowed key it stays, and differences to it are numbers.
    top = jnp.full(one, _LOWEST, jnp.float32)
    return _Softmax(top, jnp.zeros(one, jnp.float32), jnp.zeros(q.shape, jnp.float32))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7, 8))
def _attention(q, k, v, queries, keys, options, kv_heads, width, sizes):
    return _forward(q, k, v, queries, keys, options, kv_heads, width, sizes)[0]


def _forward(q, k, v, queries, keys, options: Options, kv_heads: int, width: int, sizes):
    rows, columns = sizes.forward
    lengths = (q.shape[1], k.shape[1])
    of_queries, _ = xla_tiles.bounds(queries, keys, options, lengths, sizes.forward)

    def row(i, written):
        q_tile = heads_first(cut(q, i, rows), kv_heads, width)
        q_tokens = cut_tokens(queries, i, rows, lengths[0])

        def column(j, softmax: _Softmax):
            k_tile, v_tile = (heads_first(cut(x, j, columns), kv_heads, width) for x in (k, v))
            k_tokens = cut_tokens(keys, j, columns, lengths[1])
            logits, may = tile_logits(q_tile, k_tile, q_tokens, k_tokens, options)
            return softmax.extended(logits, may, v_tile)

        softmax = loop(of_queries.of(i), column, _no_keys(q_tile))
        total = jnp.where(softmax.total == 0.0, 1.0, softmax.total)
        found = softmax.weighted / total, softmax.top + jnp.log(total)
        return tuple(put(x, heads_last(part), i) for x, part in zip(written, found, strict=True))

    lse = jnp.zeros((*q.shape[:2], q.shape[2] // width), jnp.float32)
    out, lse = loop_down(xla_tiles.count(lengths[0], rows), row, (jnp.zeros_like(q), lse))
    return out, (q, k, v, queries, keys, out, lse)


_attention.defvjp(_forward, xla_backward.gradients)
