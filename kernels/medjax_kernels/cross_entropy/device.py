"""What one device computes of the cross entropy, whichever kernels it has.

Tokens that count are moved to the front, so that neither time nor memory goes to the positions of
questions and padding. The gradient of the hidden states is made in the forward pass: it is to the
table what attention is to the values, and is summed in the same way, block by block under a growing
maximum (Dao et al. 2022, arXiv:2205.14135). The table's, wanted only when the vocabulary itself is
trained, recomputes the logits.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from medjax_kernels.cross_entropy import sums as sums_lib


class Implementation(NamedTuple):
    """The two passes over the vocabulary. In both, the `count` tokens that count come first.

    Attributes:
      block: hidden -> a number of tokens, to a multiple of which they are padded.
      sweep: (hidden, table, targets, count, options, gradient) -> Sums; `gradient` asks for the
        sums of rows, too. Targets count from the table's first row and may lie outside.
      table_gradient: (hidden, table, targets, weights, lse, count, options) -> gradient of the
        weighted loss, in the table's shape and dtype.
    """

    block: Callable[[jax.Array], int]
    sweep: Callable
    table_gradient: Callable


class _Order(NamedTuple):
    """Where tokens go: those that count to the front, in their order.

    Attributes:
      source: the token of each place; out of range where there is none that counts.
      place: the place of each token.
      counted: how many tokens count.
    """

    source: jax.Array
    place: jax.Array
    counted: jax.Array

    def take(self, x):
        """Rows of x in the order; zeros where there is no token that counts."""
        return jnp.take(x, self.source, axis=0, mode="fill", fill_value=0)

    def restore(self, x):
        """Rows of x where they came from; zeros for the tokens that don't count."""
        counts = (self.place < self.counted).reshape(-1, *(1,) * (x.ndim - 1))
        return jnp.where(counts, jnp.take(x, self.place, axis=0), 0)


def _ordered(weights, block) -> _Order:
    tokens = weights.shape[0]
    source = jnp.argsort(weights == 0, stable=True)
    place = jnp.argsort(source)
    counted = jnp.sum(weights != 0)
    source = jnp.pad(source, (0, -tokens % block))
    source = jnp.where(jnp.arange(source.shape[0]) < counted, source, tokens)
    return _Order(source, place, counted)


def forward(
    implementation, options, gradient, hidden, table, targets, weights, *, first=0, axes=()
):
    """(loss, log_prob, argmax, lse, d_hidden or None) of all tokens of a device.

    Args:
      implementation: the passes.
      options: of all tokens.
      gradient: whether the gradient of the hidden states is wanted.
      hidden, table, targets, weights: the device's part.
      first: id of the table's first row.
      axes: of the device mesh, over which the vocabulary is spread.
    """
    order = _ordered(weights, implementation.block(hidden))
    hidden, goals, w = (order.take(x) for x in (hidden, targets, weights))
    local = goals - first
    sums = implementation.sweep(hidden, table, local, order.counted, options, gradient)
    own_peak = sums.peak
    sums = sums_lib.over_devices(sums._replace(best=sums.best + first), axes)

    here = (local >= 0) & (local < table.shape[0])
    rows = jnp.take(table, jnp.where(here, local, 0), axis=0).astype(hidden.dtype)
    rows = jnp.where(here[:, None], rows, 0).astype(jnp.float32)
    # Both sides are exact in float32, whatever precision matmuls have.
    goal = jax.lax.psum(jnp.sum(hidden.astype(jnp.float32) * rows, axis=1), axes)
    goal = sums_lib.cap(goal, options.soft_cap)

    rest = sums.peak + jnp.log(sums.mass)
    loss = surprise = jax.nn.softplus(rest - goal)
    if sums.total is not None:
        loss = loss + options.label_smoothing * (goal - sums.total / options.vocabulary)
    best = sums_lib.prefer(goal, goals, sums.peak, sums.best)
    lse = goal + surprise
    scores = tuple(order.restore(x) for x in (w * loss, -surprise, best, lse))
    if sums.pull is None:
        return *scores, None

    # d loss / d hidden: every word pulls with its probability, the target with one less.
    pull = jax.nn.sigmoid(rest - goal) - options.label_smoothing
    d_hidden = jnp.exp(own_peak - lse)[:, None] * sums.pull
    d_hidden -= (pull * sums_lib.slope(goal, options.soft_cap))[:, None] * rows
    if options.label_smoothing:
        flat = sums.flat
        if flat is None:
            flat = jnp.sum(table.astype(hidden.dtype), axis=0, dtype=jnp.float32)
        d_hidden -= options.label_smoothing / options.vocabulary * flat
    # The loss scale, without which float16 is too coarse, comes with the backward pass.
    kept = jnp.float32 if hidden.dtype == jnp.float16 else hidden.dtype
    d_hidden = (w[:, None] * jax.lax.psum(d_hidden, axes)).astype(kept)
    return *scores, order.restore(d_hidden)


def table_gradient(
    implementation, options, hidden, table, targets, weights, lse, d_loss, *, first=0, axes=()
):
    """The gradient of the table, or of a device's part of it.

    Args:
      implementation, options, hidden, table, targets, weights, first: as in `forward`.
      lse: log of the sum of each token's exponentials, as from `forward`.
      d_loss: gradient of the losses.
      axes: of the device mesh, over which the tokens are spread.
    """
    order = _ordered(weights, implementation.block(hidden))
    hidden, goals, w, lse = (order.take(x) for x in (hidden, targets, weights * d_loss, lse))
    local = goals - first
    own = implementation.table_gradient(hidden, table, local, w, lse, order.counted, options)
    return jax.lax.psum(own, axes)
