"""How large the tiles of the `xla` implementation are, and how arrays are cut into them.

An array of a length that its tile does not divide is not padded, which would copy it. Its last tile
starts earlier instead and shares tokens with the one before, where they count: in the last tile
they are not valid. Tiles are written from the last to the first, so that what counts comes later.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from medjax_kernels import selection
from medjax_kernels.attention import tiles
from medjax_kernels.attention.options import Options
from medjax_kernels.attention.tokens import Tokens

# Queries and keys of a tile. Larger ones make nothing faster, and leave out less.
MAX_SIDE = 256
# Where there are few queries, as in decoding, a step of the loop is worth its cost with more keys.
MAX_KEYS = 1024
# Smaller ones read and write more of queries, keys and sums than of logits.
MIN_AREA = 64 * 32
# On a GPU, all that is alive of a tile takes this much at most, or this part of q, k, v and out.
MAX_BYTES = 8 * 2**20
MAX_PART = 0.5


class Sizes(NamedTuple):
    """Queries and keys of a tile, in the forward and in the backward pass."""

    forward: tuple[int, int]
    backward: tuple[int, int]


def sizes(q: Float[Array, "B T N H"], k: Float[Array, "B S K H"]) -> Sizes:
    """The tiles for these arrays, on the device that functions are traced for."""
    half = q.dtype.itemsize
    # Alive of a logit: itself and a weight; the same and their gradients; one byte of the mask.
    return Sizes(_sizes(q, k, 4 + half + 1), _sizes(q, k, 2 * (4 + half) + 1))


def _sizes(q, k, bytes_per_logit: int) -> tuple[int, int]:
    (batch, length, heads, width), others = q.shape, k.shape[1]
    rows = min(length, MAX_SIDE)
    columns = min(others, MAX_KEYS, _power_of_two(MAX_SIDE**2 // rows))
    if selection.device().platform != "cpu":  # whose memory is no concern
        budget = max(MAX_BYTES, MAX_PART * 2 * (q.nbytes + k.nbytes)) / (batch * heads)

        def bytes_of_a_head():
            # Alive of a number of a query or a key: a copy, a float32 sum and what is added to it.
            numbers = (rows + columns * k.shape[2] / heads) * width
            return rows * columns * bytes_per_logit + numbers * (8 + 2 * q.dtype.itemsize)

        while rows * columns > MIN_AREA and bytes_of_a_head() > budget:
            rows, columns = (rows, columns // 2) if columns >= rows else (rows // 2, columns)
    return _even(length, rows), _even(others, columns)


def _power_of_two(number: int) -> int:
    return 1 << number.bit_length() - 1


def _even(length: int, most: int) -> int:
    """The size of the fewest tiles of at most `most` tokens; a multiple of 8 if there are more."""
    each = -(-length // count(length, most))
    return min(length, most, each + -each % 8)


def count(length: int, size: int) -> int:
    """How many tiles there are."""
    return -(-length // size)


def cut(x: Float[Array, "B T C"], index, size: int) -> Float[Array, "B t C"]:
    """The tokens of a tile."""
    return jax.lax.dynamic_slice_in_dim(x, _start(x, index, size), size, axis=1)


def put(x: Float[Array, "B T C"], part: Float[Array, "B t C"], index) -> Float[Array, "B T C"]:
    """`x` with the tokens of a tile written anew; in place within a loop."""
    start = _start(x, index, part.shape[1])
    return jax.lax.dynamic_update_slice_in_dim(x, part.astype(x.dtype), start, axis=1)


def _start(x, index, size):
    return jnp.minimum(index * size, x.shape[1] - size)


def cut_tokens(tokens: Tokens, index, size: int, length: int) -> Tokens:
    """The tokens of a tile; those that count in the tile before are not valid."""
    part = jax.tree.map(lambda x: cut(x, index, size), tokens)
    if length % size == 0:
        return part
    fresh = jnp.arange(size)[None] >= index * size - jnp.minimum(index * size, length - size)
    return part._replace(valid=fresh if part.valid is None else part.valid & fresh)


class Bounds(NamedTuple):
    """Which tiles of the other side are computed with each tile of one side: `first <= j < last`.

    Numbers stand for all tiles: they are known when the program is compiled, and loops are faster.
    """

    first: Int[Array, "tiles"] | int
    last: Int[Array, "tiles"] | int

    def of(self, index) -> tuple:
        """The bounds of a tile."""
        if isinstance(self.first, int) or isinstance(self.last, int):
            return self.first, self.last
        return self.first[index], self.last[index]


def bounds(
    queries: Tokens, keys: Tokens, options: Options, lengths: tuple[int, int], size: tuple[int, int]
) -> tuple[Bounds, Bounds]:
    """Bounds of the queries' and of the keys' tiles: what any row of the batch needs."""
    rows, columns = (count(length, side) for length, side in zip(lengths, size, strict=True))
    of_queries, of_keys = tiles.ranges_of(queries, keys, options.window, lengths, size)
    if of_queries is None or of_keys is None:
        return Bounds(0, columns), Bounds(0, rows)
    return _of_any_row(of_queries, columns), _of_any_row(of_keys, rows)


def _of_any_row(found: tiles.Range, others: int) -> Bounds:
    if others == 1:
        return Bounds(0, 1)
    first = jnp.min(jnp.where(found.last == 0, others, found.first), axis=0)
    return Bounds(first, jnp.max(found.last, axis=0))


def loop(bounds: tuple, body, carry):
    """`body(index, carry)` for each index from the first bound to before the last."""
    first, last = bounds
    if isinstance(first, int) and last - first == 1:
        return body(first, carry)
    return jax.lax.fori_loop(first, last, body, carry)


def loop_down(count: int, body, carry):
    """`body(index, carry)` for each index from `count - 1` to 0."""
    return loop((0, count), lambda i, carry: body(count - 1 - i, carry), carry)
