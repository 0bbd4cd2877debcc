"""The gradient of the table on GPUs of compute capability 8.0 and up.

For each chunk of words, `_d_logits` makes the logits anew, and of them their gradient in 16 bits;
`_d_table` multiplies it by the hidden states.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from medjax_kernels.cross_entropy import blocks as blocks_lib
from medjax_kernels.cross_entropy import pallas_triton
from medjax_kernels.cross_entropy import sums as sums_lib
from medjax_kernels.cross_entropy.blocks import Sizes
from medjax_kernels.cross_entropy.device import Implementation
from medjax_kernels.cross_entropy.pallas_triton import block_of_logits, call, cut, dot


def _d_logits(
    counted_ref, start_ref, hidden_ref, table_ref, target_ref, weight_ref, lse_ref, out_ref,
    *, blocks, options,
):  # fmt: skip
    """Gradient of the weighted loss for a block of logits before the cap."""
    tokens = pl.program_id(0) * blocks.tokens, blocks.tokens
    columns = pl.program_id(1) * blocks.words, blocks.words
    words = start_ref[0] + columns[0], blocks.words
    soft_cap, smoothing = options.soft_cap, options.label_smoothing

    @pl.when(tokens[0] < counted_ref[0])
    def _():
        logits = block_of_logits(hidden_ref, table_ref, tokens, words, blocks.width, soft_cap)
        ids = words[0] + jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
        target, weight, lse = (
            plgpu.load(ref.at[pl.ds(*tokens)])[:, None] for ref in (target_ref, weight_ref, lse_ref)
        )
        goal = jnp.where(ids == target, 1.0 - smoothing, 0.0)
        gradient = weight * (jnp.exp(logits - lse) - smoothing / options.vocabulary - goal)
        if soft_cap is not None:
            gradient *= sums_lib.slope(logits, soft_cap)
        plgpu.store(out_ref.at[pl.ds(*tokens), pl.ds(*columns)], gradient.astype(out_ref.dtype))


def _d_table(counted_ref, start_ref, scale_ref, gradient_ref, hidden_ref, old_ref, new_ref,
    *, blocks
):  # fmt: skip
    """new[words, columns] = gradient.T @ hidden / scale, over blocks with a token that counts."""
    del old_ref  # the same memory as new_ref, of which this chunk's rows are written
    vocabulary, depth = new_ref.shape
    words = pl.program_id(0) * blocks.words, blocks.words
    columns = pl.program_id(1) * blocks.width, blocks.width
    limit = depth if depth % blocks.width else None

    def step(index, total):
        tokens = index * blocks.tokens, blocks.tokens
        states = cut(hidden_ref, tokens, columns, (None, limit))
        return total + dot(cut(gradient_ref, tokens, words), states, trans_a=True)

    zeros = jnp.zeros((blocks.words, blocks.width), jnp.float32)
    total = jax.lax.fori_loop(0, pl.cdiv(counted_ref[0], blocks.tokens), step, zeros)
    total *= 1.0 / scale_ref[0]
    start = start_ref[0] + words[0]
    inside = start + jax.lax.broadcasted_iota(jnp.int32, total.shape, 0) < vocabulary
    if limit is not None:
        inside &= columns[0] + jax.lax.broadcasted_iota(jnp.int32, total.shape, 1) < limit
    place = new_ref.at[pl.ds(start, blocks.words), pl.ds(*columns)]
    plgpu.store(place, total.astype(new_ref.dtype), mask=inside)


def table_gradient(hidden, table, targets, weights, lse, count, options, *, sizes: Sizes):
    """See `device.Implementation`."""
    (tokens, width), dtype = hidden.shape, hidden.dtype
    size, number = pallas_triton.chunks(tokens, table.shape[0], dtype.itemsize, sizes)
    counted = count.reshape(1).astype(jnp.int32)
    # In float16 most of the gradient, probabilities times weights, would be too small to be told
    # from zero. With the scale no entry is larger than 2^15.
    scale = jnp.float32(sums_lib.scale(dtype))
    if dtype == jnp.float16:
        bound = jnp.max(jnp.abs(weights))
        scale /= jnp.where(bound == 0, 1.0, bound)
    weights, scale = weights * scale, scale.reshape(1)

    d_logits = call(
        functools.partial(_d_logits, blocks=sizes.logits, options=options),
        (tokens // sizes.logits.tokens, size // sizes.logits.words),
        sizes.logits,
        jax.ShapeDtypeStruct((tokens, size), dtype),
    )
    d_table = call(
        functools.partial(_d_table, blocks=sizes.table),
        (size // sizes.table.words, pl.cdiv(width, sizes.table.width)),
        sizes.table,
        jax.ShapeDtypeStruct(table.shape, table.dtype),
        {5: 0},
    )

    def over_words(index, old):
        start = (index * size).reshape(1).astype(jnp.int32)
        gradient = d_logits(counted, start, hidden, table, targets, weights, lse)
        return d_table(counted, start, scale, gradient, hidden, old)

    return jax.lax.fori_loop(0, number, over_words, jnp.zeros_like(table))


def implementation(sizes: Sizes | None = None) -> Implementation:
    """With blocks from the table in `blocks`, or others."""

    def chosen(hidden) -> Sizes:
        return sizes or blocks_lib.sizes(hidden.dtype)

    def sweep(hidden, *arguments):
        return pallas_triton.sweep(hidden, *arguments, sizes=chosen(hidden))

    def gradient(hidden, *arguments):
        return table_gradient(hidden, *arguments, sizes=chosen(hidden))

    return Implementation(lambda hidden: chosen(hidden).logits.tokens, sweep, gradient)


IMPLEMENTATION = implementation()
