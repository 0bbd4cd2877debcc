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

# Bytes of the table that are gathered at a time where its columns lie on several devices.
GATHERED = 2**26


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


class Layout(NamedTuple):
    """What a device of a mesh holds.

    Attributes:
      tokens, words, width: axes of the mesh along which the tokens, and the rows and columns of the
        table are cut. No axis of the words is one of the tokens'.
    """

    tokens: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    width: tuple[str, ...] = ()

    def first(self, table):
        """Id of the first row of a device's part of the table."""
        return jax.lax.axis_index(self.words) * table.shape[0] if self.words else 0

    def gather(self, x):
        """x with all columns."""
        if not self.width:
            return x
        # As a new first axis: gathered along the last, XLA would turn the whole table first.
        parts = jnp.moveaxis(jax.lax.all_gather(x, self.width), 0, -2)
        return parts.reshape(*x.shape[:-1], -1)

    def own(self, x):
        """The device's columns of x."""
        if not self.width:
            return x
        columns = x.shape[-1] // jax.lax.axis_size(self.width)
        start = jax.lax.axis_index(self.width) * columns
        return jax.lax.dynamic_slice_in_dim(x, start, columns, axis=-1)


ALONE = Layout()


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


def _each_part(body, carry, table, layout):
    """`body(carry, rows, start)` for parts of a device's table, gathered one at a time.

    One part, where nothing has to be gathered.
    """
    words, width = table.shape
    size = words
    if layout.width:
        width *= jax.lax.axis_size(layout.width)
        size = min(words, max(1, GATHERED // (width * table.dtype.itemsize)))

    def step(index, carry):
        rows = jax.lax.dynamic_slice_in_dim(table, index * size, size)
        return body(carry, layout.gather(rows), index * size)

    whole = words // size
    if whole == 1 and words == size:
        return body(carry, layout.gather(table), 0)
    carry = jax.lax.fori_loop(0, whole, step, carry)
    if words % size:
        carry = body(carry, layout.gather(table[whole * size :]), whole * size)
    return carry


def forward(implementation, options, gradient, hidden, table, targets, weights, *, layout=ALONE):
    """(loss, log_prob, argmax, lse, d_hidden or None) of all tokens of a device.

    Args:
      implementation: the passes.
      options: of all tokens.
      gradient: whether the gradient of the hidden states is wanted.
      hidden, table, targets, weights: the device's part.
      layout: of the parts on the device mesh.
    """
    order = _ordered(weights, implementation.block(hidden))
    hidden, goals, w = (order.take(x) for x in (hidden, targets, weights))
    first = layout.first(table)

    def part(before, table, start):
        local = goals - first - start
        sums = implementation.sweep(hidden, table, local, order.counted, options, gradient)
        sums = sums._replace(best=sums.best + first + start)
        here = (local >= 0) & (local < table.shape[0])
        rows = jnp.take(table, jnp.where(here, local, 0), axis=0).astype(hidden.dtype)
        rows = jnp.where(here[:, None], rows, 0)
        if before is None:
            return sums, rows
        return sums_lib.merge(before[0], sums), before[1] + rows

    nothing = None
    if layout.width:
        nothing = (
            sums_lib.empty(*hidden.shape, options=options, gradient=gradient),
            jnp.zeros_like(hidden),
        )
    sums, rows = _each_part(part, nothing, table, layout)
    own_peak, rows = sums.peak, rows.astype(jnp.float32)
    sums = sums_lib.over_devices(sums, layout.words)

    # Both sides are exact in float32, whatever precision matmuls have.
    goal = jax.lax.psum(jnp.sum(hidden.astype(jnp.float32) * rows, axis=1), layout.words)
    goal = sums_lib.cap(goal, options.soft_cap)
    goal = jnp.where((goals >= 0) & (goals < options.vocabulary), goal, jnp.nan)

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
            flat = layout.gather(flat)
        d_hidden -= options.label_smoothing / options.vocabulary * flat
    # The loss scale, without which float16 is too coarse, comes with the backward pass.
    kept = jnp.float32 if hidden.dtype == jnp.float16 else hidden.dtype
    d_hidden = (w[:, None] * jax.lax.psum(d_hidden, layout.words)).astype(kept)
    return *scores, order.restore(d_hidden)


def table_gradient(
    implementation, options, hidden, table, targets, weights, lse, d_loss, *, layout=ALONE
):
    """The gradient of the table, or of a device's part of it.

    Args:
      implementation, options, hidden, table, targets, weights, layout: as in `forward`.
      lse: log of the sum of each token's exponentials, as from `forward`.
      d_loss: gradient of the losses.
    """
    order = _ordered(weights, implementation.block(hidden))
    hidden, goals, w, lse = (order.take(x) for x in (hidden, targets, weights * d_loss, lse))
    first = layout.first(table)

    def part(d_table, table, start):
        local = goals - first - start
        own = implementation.table_gradient(hidden, table, local, w, lse, order.counted, options)
        own = layout.own(jax.lax.psum(own, layout.tokens))
        if d_table is None:
            return own
        return jax.lax.dynamic_update_slice_in_dim(d_table, own, start, 0)

    nothing = jnp.zeros_like(table) if layout.width else None
    return _each_part(part, nothing, table, layout)
