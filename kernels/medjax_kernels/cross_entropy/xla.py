"""Cross entropy for any device that XLA compiles for: chunks of words by blocks of tokens.

Rows of the table are cut out, and cast, once a chunk; blocks with no token that counts are never
reached.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from medjax_kernels import selection
from medjax_kernels.cross_entropy import sums as sums_lib
from medjax_kernels.cross_entropy.device import Implementation
from medjax_kernels.cross_entropy.sums import LOWEST, Sums


class Sizes(NamedTuple):
    """What is computed at once.

    Attributes:
      tokens: in a block: enough for matmuls that need not wait for the table, few enough that
        little is computed for tokens that don't count.
      budget: a chunk has as many words as keep (logits of a block + rows of the table) below this
        many numbers.
      table_gradient_budget: the same where the table's gradient is made.
    """

    tokens: int
    budget: int
    table_gradient_budget: int


# 64 MiB in float32, of which logits are the smaller part; half of it where the table's gradient has
# its float32 sum to hold as well.
_GPU = Sizes(256, 2**24, 2**23)
# 4 MiB: what a CPU's caches hold, so that the passes over logits need not wait for memory.
_CPU = Sizes(128, 2**20, 2**20)


def sizes() -> Sizes:
    """For the device at hand."""
    return _CPU if selection.device().platform == "cpu" else _GPU


def block_size(tokens: int) -> int:
    """How many tokens' logits are computed at once."""
    return max(1, min(tokens, sizes().tokens))


def _rows(table, index, size, dtype):
    """(start, rows, ids, fresh) of a chunk; the last goes back to be as large as the rest."""
    start = jnp.minimum(index * size, table.shape[0] - size)
    rows = jax.lax.dynamic_slice_in_dim(table, start, size).astype(dtype)
    ids = start + jnp.arange(size, dtype=jnp.int32)
    return start, rows, ids, ids >= index * size


def _chunks(vocabulary, width, block, budget, words):
    most, multiple = (words, 1) if words else (budget // (block + width), 128)
    size, number = sums_lib.chunks(vocabulary, most, multiple)
    return min(size, vocabulary), number


def _logits(hidden, rows, soft_cap):
    logits = jnp.einsum("MD,VD->MV", hidden, rows, preferred_element_type=jnp.float32)
    return sums_lib.cap(logits, soft_cap)


def _each_block(count, block, body, carry, *arrays):
    """`body(carry, *blocks)` for all blocks of the arrays with a token that counts."""

    def step(index, carry):
        start = index * block
        cut = functools.partial(jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=block)
        return body(start, carry, *map(cut, arrays))

    return jax.lax.fori_loop(0, -(-count // block), step, carry)


def sweep(hidden, table, targets, count, options, gradient, *, block=None, words=None) -> Sums:
    """See `device.Implementation`; `block` tokens and chunks of `words`, or by the rules above."""
    (tokens, width), soft_cap = hidden.shape, options.soft_cap
    block = block or block_size(tokens)
    size, number = _chunks(table.shape[0], width, block, sizes().budget, words)
    scale = sums_lib.scale(hidden.dtype)

    def over_words(index, sums):
        _, rows, ids, fresh = _rows(table, index, size, hidden.dtype)

        def weighted(coefficients):
            product = jnp.einsum(
                "MV,VD->MD", coefficients, rows, preferred_element_type=jnp.float32
            )
            return product / scale

        def over_tokens(start, sums, states, goals):
            old = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, block), sums)
            logits = _logits(states, rows, soft_cap)
            others = fresh & (ids != goals[:, None])
            logits_of_others = jnp.where(others, logits, LOWEST)
            chunk_peak = jnp.max(logits_of_others, axis=1)
            # Two plain reductions, which XLA makes vector code of on a CPU: argmax's it does not.
            top = logits_of_others == chunk_peak[:, None]
            chunk_best = jnp.min(jnp.where(top, ids, sums_lib.NOBODY), axis=1)
            peak = jnp.maximum(old.peak, chunk_peak)
            shrink = jnp.exp(old.peak - peak)
            powers = jnp.where(others, jnp.exp(logits - peak[:, None]), 0.0)
            new = old._replace(
                peak=peak,
                best=sums_lib.prefer(old.peak, old.best, chunk_peak, chunk_best),
                mass=old.mass * shrink + jnp.sum(powers, axis=1),
            )
            if old.total is not None:
                new = new._replace(total=old.total + jnp.sum(logits, axis=1, where=fresh))
            slopes = sums_lib.slope(logits, soft_cap)
            if old.pull is not None:
                pull = weighted((scale * powers * slopes).astype(hidden.dtype))
                new = new._replace(pull=old.pull * shrink[:, None] + pull)
            if old.flat is not None:
                flat = weighted(jnp.where(fresh, scale * slopes, 0.0).astype(hidden.dtype))
                new = new._replace(flat=old.flat + flat)
            return jax.tree.map(
                lambda x, part: jax.lax.dynamic_update_slice_in_dim(x, part, start, 0), sums, new
            )

        return _each_block(count, block, over_tokens, sums, hidden, targets)

    nothing = sums_lib.empty(tokens, width, options=options, gradient=gradient)
    return jax.lax.fori_loop(0, number, over_words, nothing)


def table_gradient(hidden, table, targets, weights, lse, count, options, *, block=None, words=None):
    """See `device.Implementation`, and `sweep`."""
    (tokens, width), soft_cap = hidden.shape, options.soft_cap
    block = block or block_size(tokens)
    size, number = _chunks(table.shape[0], width, block, sizes().table_gradient_budget, words)
    bound = jnp.max(jnp.abs(weights))

    def over_words(index, d_table):
        start, rows, ids, _ = _rows(table, index, size, hidden.dtype)

        def over_tokens(_, total, states, goals, w, log_sums):
            logits = _logits(states, rows, soft_cap)
            d_logits = jnp.exp(logits - log_sums[:, None])
            d_logits -= options.label_smoothing / options.vocabulary
            hit = ids == goals[:, None]
            d_logits -= jnp.where(hit, 1.0 - options.label_smoothing, 0.0)
            d_logits *= w[:, None] * sums_lib.slope(logits, soft_cap)
            return total + _product(d_logits, states, bound)

        total = jnp.zeros((size, width), jnp.float32)
        total = _each_block(count, block, over_tokens, total, hidden, targets, weights, lse)
        return jax.lax.dynamic_update_slice_in_dim(d_table, total.astype(table.dtype), start, 0)

    return jax.lax.fori_loop(0, number, over_words, jnp.zeros_like(table))


def _product(d_logits, states, bound):
    """d_logits.T @ states in the states' dtype, summed in float32.

    In float16 most of d_logits, probabilities times weights, would be too small to be told from
    zero. So it is scaled by `bound`, than which no entry is larger.
    """
    scale = jnp.float32(sums_lib.scale(states.dtype))
    if states.dtype == jnp.float16:
        scale /= jnp.where(bound == 0, 1.0, bound)
    half = (d_logits * scale).astype(states.dtype)
    return jnp.einsum("MV,MD->VD", half, states, preferred_element_type=jnp.float32) / scale


def implementation(block: int | None = None, words: int | None = None) -> Implementation:
    """With blocks and chunks by the rules above, or of other sizes."""
    sizes = dict(block=block, words=words)
    return Implementation(
        lambda hidden: block or block_size(hidden.shape[0]),
        functools.partial(sweep, **sizes),
        functools.partial(table_gradient, **sizes),
    )


IMPLEMENTATION = implementation()
