"""Dynamic loss scaling: float16 gradients neither vanish nor overflow.

Micikevicius et al., Mixed Precision Training, arXiv:1710.03740. A step whose gradients are not
finite is skipped and halves the scale; 2,000 good ones in a row double it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

PERIOD = 2000
_MAX = 2.0**24
# Steps skipped in a row after which the scale is 1 wherever it began: scaling is not to blame.
MAX_SKIPS = 25


class LossScale(NamedTuple):
    """State of the scaling; a scale of 1 that never changes when it is off.

    Attributes:
      scale: float32, what the loss is multiplied with.
      good: int32, finite steps since the last change.
      skipped: int32, steps skipped so far.
    """

    scale: Float[Array, ""]
    good: Int[Array, ""]
    skipped: Int[Array, ""]


def create(dtype: jnp.dtype) -> LossScale:
    """Starts at 2^15 for float16, at 1 otherwise."""
    scale = 2.0**15 if dtype == jnp.float16 else 1.0
    return LossScale(jnp.float32(scale), jnp.int32(0), jnp.int32(0))


def all_finite(gradients) -> Bool[Array, ""]:
    """Whether every number of a pytree is finite."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(gradients)]))


def update(state: LossScale, finite: Bool[Array, ""]) -> LossScale:
    """The state after a step whose gradients were finite, or not."""
    grown = finite & (state.good + 1 >= PERIOD)
    scale = jnp.where(grown, jnp.minimum(state.scale * 2, _MAX), state.scale)
    return LossScale(
        scale=jnp.where(finite, scale, jnp.maximum(state.scale / 2, 1.0)),
        good=jnp.where(finite & ~grown, state.good + 1, 0),
        skipped=state.skipped + ~finite,
    )
