"""Quantizing a matrix, and multiplying with a quantized one."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from medjax_kernels import selection
from medjax_kernels.nf4 import pallas_triton, quantization, reference, xla
from medjax_kernels.nf4.product import product
from medjax_kernels.nf4.weights import MAX_WEIGHTS, NF4

_MODULES = {"pallas_triton": pallas_triton, "xla": xla, "reference": reference}
# The width is D, over which the product sums.
SUPPORT = {
    "pallas_triton": selection.Support((8, 0), auto=("bfloat16", "float16")),
    "xla": selection.Support(),
    "reference": selection.Support(),
}


def quantize(weights: Float[Array, "*stack D F"]) -> NF4:
    """Rounds matrices to 4-bit NormalFloat with double quantization, each by itself.

    As bitsandbytes does (blocks of 64, nested blocks of 256; QLoRA, arXiv:2305.14314): every weight
    over the largest of its block goes to the nearest of 16 levels; the largest values, minus their
    mean, over the largest of theirs to the nearest of 256. What lies in the middle of two levels
    goes to the lower one. Float16 and bfloat16 are taken as the float32s that they are. A block of
    zeros stays zeros. Numbers below float32's least normal one count as zero on some devices.

    Args:
      weights: any float dtype; stacked layers lead. Blocks run along D: see `NF4`.

    Returns:
      4.127 bits a weight: D F / 2 + D F / 64 + 4 D F / 64 / 256 + 4 bytes, each rounded up.

    Raises:
      ValueError: not a matrix of floats, 2^31 weights and more in a matrix, or weights that are not
        finite. Under `jax.jit`, where values can't be looked at, these make the whole matrix NaN or
        infinite.
    """
    if weights.ndim < 2 or not jnp.issubdtype(weights.dtype, jnp.floating):
        raise ValueError(f"expected floats [..., D, F], got {weights.dtype} {weights.shape}")
    *stack, width, outputs = weights.shape
    if width * outputs > MAX_WEIGHTS:
        raise ValueError(f"a matrix of {width} x {outputs} has more than {MAX_WEIGHTS} weights")
    if not isinstance(weights, jax.core.Tracer) and not np.all(jnp.isfinite(weights)):
        raise ValueError(f"weights {weights.shape} are not finite, and 4 bits hold finite numbers")
    return _each(quantization.quantize, weights, stack)


def dequantize(weights: NF4, dtype: DTypeLike = jnp.float32) -> Float[Array, "*stack D F"]:
    """The matrices that `weights` stands for: computed in float32, rounded once to dtype.

    In float32 to the last bit what bitsandbytes gives. Every implementation of `matmul` multiplies
    with these numbers, rounded to x's dtype. No gradient flows through. One pass over the codes on
    every device, so there is but one implementation.
    """
    weights = jax.tree.map(jax.lax.stop_gradient, weights)
    stack = weights.shape[:-2]
    return _each(lambda one: reference.dequantized(one).astype(dtype), weights, stack)


def matmul(
    x: Float[Array, "*batch D"], weights: NF4, *, implementation: str = "auto"
) -> Float[Array, "*batch F"]:
    """x @ W for a quantized W [D, F], of which a tile at a time is dequantized.

    Differentiable in x (d_out @ W.T, from the same codes). W is a constant: the gradient of each
    of its arrays is zero.

    Args:
      x: any leading axes; its dtype is that of the product.
      weights: one matrix; of stacked ones, `jax.lax.scan` or `jax.vmap` gives one.
      implementation: "reference" (dequantizes the whole matrix), "xla" (tile by tile),
        "pallas_triton" (one kernel, GPUs from compute capability 8.0 on), or "auto": pallas_triton
        there for float16 and bfloat16, else xla.

    Returns:
      In x's dtype: weights are rounded to it (float32 weights are W exactly), sums are float32.

    Raises:
      ValueError: shapes that do not fit, x that is not float, a stack, or an implementation that
        is unknown or can't run here.
    """
    if weights.codes.ndim != 2:
        raise ValueError(f"expected one matrix [D, F], got a stack {weights.shape}: scan over it")
    width, outputs = weights.shape
    if x.ndim < 1 or x.shape[-1] != width or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"expected floats [..., {width}], got {x.dtype} {x.shape}")
    chosen = selection.choose("nf4", implementation, SUPPORT, dtype=x.dtype, width=max(width, 1))
    rows = math.prod(x.shape[:-1])
    if 0 in (rows, width, outputs):
        return jnp.zeros((*x.shape[:-1], outputs), x.dtype)
    module = _MODULES[chosen]
    flat = x.reshape(rows, width)
    out = product(flat, weights, module.matmul, module.matmul_transposed)
    return out.reshape(*x.shape[:-1], outputs)


def _each(function, tree, stack):
    """function of each element of a tree with these leading axes."""
    for _ in stack:
        function = jax.vmap(function)
    return function(tree)
