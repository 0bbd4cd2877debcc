"""The product for any device that XLA compiles for, V100 and CPU included.

A tile of the matrix at a time: forward all weights of some outputs, backward all weights of some
inputs, so that no sum is spread over tiles, and each tile's result goes where it belongs at once.
What is alive beside arguments and results is one tile. The last tile overlaps the one before rather
than be padded; both write the same numbers.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax_kernels.nf4.tiles import Span, dequantize
from medjax_kernels.nf4.weights import BLOCK, NF4

MAX_TILE = 2**20  # weights


def matmul(x: Float[Array, "M D"], weights: NF4, max_tile: int = MAX_TILE) -> Float[Array, "M F"]:
    """x @ W. `max_tile`: how many weights may be alive at once (a whole row or column is)."""
    width, outputs = weights.shape
    inputs = Span(0, width + width % 2)
    x = jnp.pad(x, ((0, 0), (0, width % 2)))
    size = min(outputs, max(1, max_tile // inputs.size))

    def tile(start):
        return jnp.einsum(
            "md,fd->mf",
            x,
            dequantize(weights, Span(start, size), inputs).astype(x.dtype),
            preferred_element_type=jnp.float32,
        )

    return _each_tile(tile, x, outputs, size)


def matmul_transposed(
    y: Float[Array, "M F"], weights: NF4, max_tile: int = MAX_TILE
) -> Float[Array, "M D"]:
    """y @ W.T, likewise."""
    width, outputs = weights.shape
    # Whole blocks where outputs have whole blocks, else whole bytes.
    unit = 2 if width % BLOCK else BLOCK
    length = width + width % 2
    size = min(length, unit * max(1, max_tile // (unit * outputs)))

    def tile(start):
        return jnp.einsum(
            "mf,fd->md",
            y,
            dequantize(weights, Span(0, outputs), Span(start, size)).astype(y.dtype),
            preferred_element_type=jnp.float32,
        )

    return _each_tile(tile, y, length, size)[:, :width]


def _each_tile(tile, like: Float[Array, "M ..."], length: int, size: int) -> Float[Array, "M N"]:
    """Columns [0, length) in `like`'s dtype, `size` of them from each call of tile(start)."""
    if size == length:
        return tile(0).astype(like.dtype)

    def step(out, start):
        columns = tile(start).astype(out.dtype)
        return jax.lax.dynamic_update_slice_in_dim(out, columns, start, axis=1), None

    starts = jnp.minimum(jnp.arange(-(-length // size)) * size, length - size)
    return jax.lax.scan(step, jnp.zeros((like.shape[0], length), like.dtype), starts)[0]
