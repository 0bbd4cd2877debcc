"""What attention's kernels do with one tile: load it, compute its logits, tell who may attend."""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Bool, Float

from medjax_kernels.attention.options import Options
from medjax_kernels.attention.parts import padded, parts
from medjax_kernels.attention.tile_sizes import TileSize
from medjax_kernels.attention.tiles import Range
from medjax_kernels.attention.tokens import Tokens, pairs

LOG2_E = math.log2(math.e)
# Rows x part of a head each; see `parts`.
Pieces = tuple[Float[Array, "rows part"], ...]


def dot(a: Array, b: Array, *, transposed: bool = False) -> Float[Array, "rows columns"]:
    """a @ b (or a @ b.T) with float32 sums; float32 inputs are not rounded to TF32."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return plgpu.dot(a, b, trans_b=transposed, precision=precision)


def dot_pieces(a: Pieces, b: Pieces) -> Float[Array, "rows columns"]:
    """a @ b.T, summed over the head's width."""
    products = (dot(x, y, transposed=True) for x, y in zip(a, b, strict=True))
    return functools.reduce(jnp.add, products)


def zeros(rows: int, width: int) -> Pieces:
    """Float32 sums."""
    return tuple(jnp.zeros((rows, size), jnp.float32) for _, size in parts(width))


def inside(start, size: int, length: int) -> Bool[Array, "size"] | None:
    """Which of the places `start : start + size` lie below `length`; None if no tile is cut."""
    return start + jnp.arange(size) < length if length % size else None


def every(*masks: Array | None) -> Array | None:
    """True where all masks are; None stands for one that is true everywhere."""
    given = [mask for mask in masks if mask is not None]
    return functools.reduce(jnp.logical_and, given) if given else None


def _there(rows: Array | None, first: int, size: int, width: int) -> Array | None:
    """Which elements of a piece exist."""
    columns = (first + jnp.arange(size) < width)[None] if first + size > width else None
    return every(None if rows is None else rows[:, None], columns)


def load(ref, start, size: int, length: int, width: int, *index) -> Pieces:
    """Rows `start : start + size` of a head; zero what is not there.

    Args:
      ref: [length, padded width], or with further dimensions between that `index` chooses from.
    """
    rows = inside(start, size, length)
    pieces = []
    for first, columns in parts(width):
        there = _there(rows, first, columns, width)
        tile = ref.at[(pl.ds(start, size), *index, pl.ds(first, columns))]
        other = None if there is None else 0.0
        pieces.append(plgpu.load(tile, mask=there, other=other))
    return tuple(pieces)


def store(ref, start, pieces: Pieces, length: int, width: int) -> None:
    """Writes rows from `start` on, as far as they are there, in the ref's dtype."""
    size = pieces[0].shape[0]
    rows = inside(start, size, length)
    for piece, (first, columns) in zip(pieces, parts(width), strict=True):
        there = _there(rows, first, columns, width)
        tile = ref.at[pl.ds(start, size), pl.ds(first, columns)]
        plgpu.store(tile, piece.astype(ref.dtype), mask=there)


def load_vector(ref, start, size: int, length: int, other, *index) -> Array:
    """Places `start : start + size` of a ref [..., length]; `other` where it has ended."""
    there = inside(start, size, length)
    tile = ref.at[(*index, pl.ds(start, size))]
    return plgpu.load(tile, mask=there, other=None if there is None else other)


def load_tokens(refs: Tokens, start, size: int, length: int) -> Tokens:
    """The fields of one tile's tokens."""
    return jax.tree.map(
        lambda ref: load_vector(ref, start, size, length, jnp.zeros((), ref.dtype)), refs
    )


def logits(product: Array, options: Options) -> tuple[Array, Array | None]:
    """(scaled and capped logits times log2(e), since the kernels compute with exp2; the cap's
    derivative, None without cap)."""
    if options.soft_cap is None:
        return product * (options.scale * LOG2_E), None
    bent = jnp.tanh(product * (options.scale / options.soft_cap))
    return bent * (options.soft_cap * LOG2_E), 1.0 - bent * bent


def may_attend(
    queries: Tokens, keys: Tokens, window: int | None, there: Array | None, *, query_axis: int
) -> Bool[Array, "rows columns"] | None:
    """Which pairs of a tile are allowed; None if all are.

    Args:
      there: the keys that lie below S, None if all do.
      query_axis: 0 for a tile [queries, keys], 1 for [keys, queries].
    """
    may = pairs(
        jax.tree.map(lambda x: jnp.expand_dims(x, 1 - query_axis), queries),
        jax.tree.map(lambda x: jnp.expand_dims(x, query_axis), keys),
        window,
    )
    return every(may, None if there is None else jnp.expand_dims(there, query_axis))


def bounds(tile_range: Range | None, tiles: int) -> tuple[Array, Array] | tuple[int, int]:
    """(first tile, one past the last) of a program's loop; all `tiles` where nothing is masked."""
    return (0, tiles) if tile_range is None else (tile_range.first[...], tile_range.last[...])


# What a program (tile, head, batch row) sees. Whole lengths: the kernels cut tiles themselves.


def head_spec(length: int, width: int, group: int = 1) -> pl.BlockSpec:
    """One head of [B, length, heads, H]; every `group` programs share one."""
    shape = (None, length, None, padded(width))
    return pl.BlockSpec(shape, lambda tile, head, row: (row, 0, head // group, 0))


def group_spec(length: int, width: int, group: int) -> pl.BlockSpec:
    """All query heads of a key/value head, of [B, T, K, G, H]."""
    shape = (None, length, None, group, padded(width))
    return pl.BlockSpec(shape, lambda tile, head, row: (row, 0, head, 0, 0))


def row_spec(length: int) -> pl.BlockSpec:
    """One head of [B, N, T]."""
    return pl.BlockSpec((None, None, length), lambda tile, head, row: (row, head, 0))


def gain_spec(gain: Array | None, group: int = 1) -> pl.BlockSpec | None:
    """One number of [B, K]; every `group` programs share one."""
    if gain is None:
        return None
    return pl.BlockSpec((None, None), lambda tile, head, row: (row, head // group))


def token_specs(tokens: Tokens) -> Tokens:
    """One row of each field [B, length]; a row of 1 is everybody's."""

    def spec(x):
        shared = x.shape[0] == 1
        return pl.BlockSpec((None, x.shape[1]), lambda tile, head, row: (0 if shared else row, 0))

    return jax.tree.map(spec, tokens)


def range_specs(tile_range: Range | None, parts: int = 1) -> Range | None:
    """A tile's own two numbers of [B, tiles]; `parts` programs share a tile."""

    def spec(x):
        shared = x.shape[0] == 1
        return pl.BlockSpec((None, None), lambda i, head, row: (0 if shared else row, i // parts))

    return jax.tree.map(spec, tile_range)


def params(tile: TileSize) -> plgpu.CompilerParams:
    """These make Pallas take its Triton backend."""
    return plgpu.CompilerParams(num_warps=tile.num_warps, num_stages=tile.num_stages)
