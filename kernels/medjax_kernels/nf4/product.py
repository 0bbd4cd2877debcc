"""The derivative that every implementation of the product shares."""

import functools
from collections.abc import Callable

import jax
from jaxtyping import Array, Float

from medjax_kernels.nf4.weights import NF4


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def product(
    x: Float[Array, "M D"], weights: NF4, forward: Callable, backward: Callable
) -> Float[Array, "M F"]:
    """forward(x, weights) = x @ W, whose gradient in x is backward(d_out, weights) = d_out @ W.T.

    The gradient in weights is zero, for each of its arrays: nothing but x is kept from forward to
    backward that would tell it, and x isn't kept.
    """
    return forward(x, weights)


def _forward(x, weights, forward, backward):
    return forward(x, weights), weights


def _backward(forward, backward, weights, d_out):
    return backward(d_out, weights), None


product.defvjp(_forward, _backward)
