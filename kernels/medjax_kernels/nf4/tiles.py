"""From codes to weights, of any part of a matrix; plain jax, for every device."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax_kernels.nf4.codebook import DYNAMIC, LEVELS
from medjax_kernels.nf4.weights import BLOCK, GROUP, NF4, unpack

LEAST = float(jnp.finfo(jnp.float32).min)


class Span(NamedTuple):
    """A part of an axis: `size` is known when tracing, `start` need not be."""

    start: Array | int
    size: int


def dequantize(weights: NF4, outputs: Span, inputs: Span) -> Float[Array, "outputs inputs"]:
    """Weights of these outputs and inputs, transposed ([F, D]), in float32.

    Args:
      weights: one matrix.
      inputs: begins and ends at a multiple of 64, or of 2 if 64 does not divide D. May go one
        beyond an odd D, for a zero.
    """
    start, size = (outputs.start, inputs.start // 2), (outputs.size, inputs.size // 2)
    codes = unpack(jax.lax.dynamic_slice(weights.codes, start, size))
    levels = jnp.asarray(LEVELS)[codes]
    rows = jnp.arange(outputs.size)[:, None] + outputs.start
    if weights.width % BLOCK == 0:
        # One number for all 64 weights of a block.
        start, size = (outputs.start, inputs.start // BLOCK), (outputs.size, inputs.size // BLOCK)
        block = rows * (weights.width // BLOCK) + jnp.arange(size[1]) + start[1]
        absmax = _absmax(jax.lax.dynamic_slice(weights.absmax, start, size), block, weights)
        levels = levels.reshape(*absmax.shape, BLOCK)
        return (levels * absmax[..., None]).reshape(outputs.size, inputs.size)
    block = (rows * weights.width + jnp.arange(inputs.size) + inputs.start) // BLOCK
    return levels * _absmax(weights.absmax[block], block, weights)


def _absmax(codes, block, weights: NF4) -> Float[Array, "..."]:
    product = jnp.asarray(DYNAMIC)[codes] * weights.scales[block // GROUP]
    return round_product(product) + weights.offset


def round_product(product: Float[Array, "..."]) -> Float[Array, "..."]:
    """The product itself, which can't be fused into an addition that follows.

    A fused multiply-add rounds once and bitsandbytes twice. No compiler knows that no product is
    below float32's least number.
    """
    return jnp.maximum(product, LEAST)
