"""What every quantizer gives, and how gradients pass it."""

from typing import NamedTuple

import jax
from jaxtyping import Array, Float, Int


class Quantized(NamedTuple):
    """Latents that became codes.

    Attributes:
      codes: float32; their gradient is the latents'.
      ids: int32.
      latents: float32, as they were compared with the codes.
      commitment: a token's loss for being far from its code, weighted; 0 where there is none.
    """

    codes: Float[Array, "... D"]
    ids: Int[Array, "..."]
    latents: Float[Array, "... D"]
    commitment: Float[Array, "..."]


def straight_through(
    x: Float[Array, "... D"], rounded: Float[Array, "... D"]
) -> Float[Array, "... D"]:
    """`rounded`, whose gradient goes to `x` unchanged (arXiv:1308.3432)."""
    # Not x + stop_gradient(rounded - x), which is not always `rounded` to the last bit.
    return _replaced(x, jax.lax.stop_gradient(rounded))


@jax.custom_vjp
def _replaced(x, rounded):
    return rounded


_replaced.defvjp(lambda x, rounded: (rounded, None), lambda _, gradient: (gradient, None))
