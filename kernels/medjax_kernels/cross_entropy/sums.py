"""The sums over the vocabulary from which a token's loss and its gradient are made.

They grow chunk by chunk, as in the online softmax (Milakov and Gimelshein 2018, arXiv:1805.02867),
and hold all but the target's term. The target's comes in at the end, in float32: the gradient of a
token that the model is sure of is a small difference, and would be lost in rounded probabilities.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from medjax_kernels.cross_entropy.scores import Options

# Below every logit; not -inf, whose difference to itself is NaN.
LOWEST = float(jnp.finfo(jnp.float32).min)
# Above every id, and still so after another has been added.
NOBODY = 2**30


class Sums(NamedTuple):
    """What a part of the vocabulary adds for each token.

    Attributes:
      peak: greatest logit, the target's left out.
      best: the first word that has it.
      mass: sum of exp(logit - peak), the target's left out.
      total: sum of the logits, for label smoothing; None without.
      pull: sum of exp(logit - peak) * slope * row of the table, the target's left out; None where
        nobody wants the gradient. The slope is the soft cap's derivative.
      flat: sum of slope * row, for label smoothing under a soft cap; None without.
    """

    peak: Float[Array, "M"]
    best: Int[Array, "M"]
    mass: Float[Array, "M"]
    total: Float[Array, "M"] | None
    pull: Float[Array, "M D"] | None
    flat: Float[Array, "M D"] | None


def empty(tokens: int, width: int, *, options: Options, gradient: bool) -> Sums:
    """The sums over no words."""
    smoothed, capped = options.label_smoothing > 0, options.soft_cap is not None

    def zeros(*shape):
        return jnp.zeros(shape, jnp.float32)

    return Sums(
        peak=jnp.full(tokens, LOWEST, jnp.float32),
        best=jnp.full(tokens, NOBODY, jnp.int32),
        mass=zeros(tokens),
        total=zeros(tokens) if smoothed else None,
        pull=zeros(tokens, width) if gradient else None,
        flat=zeros(tokens, width) if gradient and smoothed and capped else None,
    )


def cap(logits, soft_cap):
    """soft_cap * tanh(logits / soft_cap), or the logits as they are."""
    return logits if soft_cap is None else soft_cap * jnp.tanh(logits / soft_cap)


def slope(capped, soft_cap):
    """The derivative of `cap`, from its result."""
    return jnp.ones_like(capped) if soft_cap is None else 1.0 - jnp.square(capped / soft_cap)


def scale(dtype) -> float:
    """By what exp(logit - peak), at most 1, is multiplied before it is rounded to the dtype.

    Without it float16 would take the small ones for zero, and there may be 257,000 of them.
    """
    return 2.0**15 if dtype == jnp.float16 else 1.0


def chunks(vocabulary: int, most: int, multiple: int) -> tuple[int, int]:
    """(size, number) of chunks of about equal size, at most `most` or else `multiple` words."""
    number = -(-vocabulary // max(most, multiple))
    size = -(-vocabulary // number)
    size += -size % multiple
    return size, -(-vocabulary // size)


def prefer(a_peak, a_best, b_peak, b_best):
    """The better of two words, the first of equals."""
    first = (a_peak > b_peak) | ((a_peak == b_peak) & (a_best < b_best))
    return jnp.where(first, a_best, b_best)


def merge(a: Sums, b: Sums) -> Sums:
    """The sums over the words of both."""
    peak = jnp.maximum(a.peak, b.peak)
    of_a, of_b = jnp.exp(a.peak - peak), jnp.exp(b.peak - peak)
    pull = None
    if a.pull is not None and b.pull is not None:
        pull = of_a[:, None] * a.pull + of_b[:, None] * b.pull
    return Sums(
        peak=peak,
        best=prefer(a.peak, a.best, b.peak, b.best),
        mass=of_a * a.mass + of_b * b.mass,
        total=jax.tree.map(jnp.add, a.total, b.total),
        pull=pull,
        flat=jax.tree.map(jnp.add, a.flat, b.flat),
    )


def over_devices(sums: Sums, axes: tuple[str, ...]) -> Sums:
    """All but the sums of rows, over devices that hold a part of the vocabulary each."""
    if not axes:
        return sums
    peak = jax.lax.pmax(sums.peak, axes)
    return sums._replace(
        peak=peak,
        best=jax.lax.pmin(jnp.where(sums.peak == peak, sums.best, NOBODY), axes),
        mass=jax.lax.psum(sums.mass * jnp.exp(sums.peak - peak), axes),
        total=None if sums.total is None else jax.lax.psum(sums.total, axes),
    )
