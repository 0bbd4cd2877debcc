"""From weights to codes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from medjax_kernels.nf4.codebook import DYNAMIC, LEVELS, thresholds
from medjax_kernels.nf4.weights import BLOCK, GROUP, NF4, absmax_shape, pack


@jax.jit
def quantize(matrix: Float[Array, "D F"]) -> NF4:
    """One matrix; see `api.quantize`."""
    width, outputs = matrix.shape
    flat = matrix.T.reshape(-1).astype(jnp.float32)
    blocks, absmax = _normalize(flat, BLOCK)
    # As many comparisons as thresholds: cheaper than a search, where there are 15. What equals a
    # threshold falls to the level below, as in bitsandbytes.
    codes = sum((blocks > t).astype(jnp.uint8) for t in thresholds(LEVELS).tolist())
    offset = jnp.mean(absmax) if absmax.size else jnp.float32(0)
    groups, scales = _normalize(absmax - offset, GROUP)
    absmax = jnp.searchsorted(thresholds(DYNAMIC), groups).astype(jnp.uint8)
    return NF4(
        codes=pack(_cut(codes, flat.size).reshape(outputs, width)),
        absmax=_cut(absmax, blocks.shape[0]).reshape(absmax_shape(matrix.shape)),
        scales=scales,
        offset=offset,
        width=width,
    )


def _normalize(values: Float[Array, "n"], size: int) -> tuple[Array, Array]:
    """Blocks [ceil(n / size), size] of values over their largest, and the largest of each.

    Multiplied with the inverse, which is rounded first, as bitsandbytes does. A block of zeros
    stays one: the least normal number has a finite inverse.
    """
    blocks = jnp.pad(values, (0, -values.size % size)).reshape(-1, size)
    largest = jnp.max(jnp.abs(blocks), axis=1) if blocks.size else jnp.zeros(0, jnp.float32)
    least = jnp.finfo(jnp.float32).tiny
    return blocks * (1 / jnp.maximum(largest, least))[:, None], largest


def _cut(padded: UInt8[Array, "blocks size"], count: int) -> UInt8[Array, "count"]:
    return jax.lax.slice_in_dim(padded.reshape(-1), 0, count)
