"""The product in the plainest words, for reading and for tests."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax_kernels.nf4.tiles import Span, dequantize
from medjax_kernels.nf4.weights import NF4


@jax.jit
def dequantized(weights: NF4) -> Float[Array, "D F"]:
    """The whole matrix, in float32."""
    width, outputs = weights.shape
    return dequantize(weights, Span(0, outputs), Span(0, width + width % 2))[:, :width].T


def matmul(x: Float[Array, "M D"], weights: NF4) -> Float[Array, "M F"]:
    """x @ W, the weights rounded to x's dtype, summed in float32."""
    matrix = dequantized(weights).astype(x.dtype)
    return jnp.matmul(x, matrix, preferred_element_type=jnp.float32).astype(x.dtype)


def matmul_transposed(y: Float[Array, "M F"], weights: NF4) -> Float[Array, "M D"]:
    """y @ W.T, likewise."""
    matrix = dequantized(weights).astype(y.dtype)
    return jnp.matmul(y, matrix.T, preferred_element_type=jnp.float32).astype(y.dtype)
