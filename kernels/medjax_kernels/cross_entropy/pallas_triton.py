"""Cross entropy for GPUs of compute capability 8.0 and up: three kernels for each chunk of words.

`_scores` multiplies a block of tokens by a block of words, and keeps of the logits what the sums
need: the greatest, the sum of exponentials, and the exponentials themselves in 16 bits, relative to
the block's own greatest. `_pull` multiplies those by rows of the table, with the factors that
relate the blocks' maxima to each other. `pallas_triton_backward` has the kernel for the table.

No kernel adds to what another program writes, so that results are the same to the last bit each
time. Programs of blocks with no token that counts end at once. Offsets into arrays of more than
2^32 bytes have 64 bits; Pallas sees to that.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from medjax_kernels import selection
from medjax_kernels.cross_entropy import sums as sums_lib
from medjax_kernels.cross_entropy.blocks import Blocks, Sizes
from medjax_kernels.cross_entropy.sums import LOWEST, NOBODY, Sums

# Bytes of what there is one of for each token and word of a chunk. A chunk has as many words as
# that allows for the tokens, or else the least below.
BUDGET = 2**26
LEAST_WORDS = 1024


def chunks(tokens: int, vocabulary: int, bytes_each: int, sizes: Sizes) -> tuple[int, int]:
    """(size, number) of the chunks of words."""
    most = sizes.words or max(BUDGET // (tokens * bytes_each), LEAST_WORDS)
    return sums_lib.chunks(vocabulary, most, sizes.logits.words)


def call(kernel, grid, blocks: Blocks, out_shape, aliases=None):
    """pallas_call of whole arrays: the kernels cut their blocks out themselves."""
    return pl.pallas_call(
        kernel,
        grid=grid,
        out_shape=out_shape,
        input_output_aliases=aliases or {},
        interpret=selection.interpreted(),
        compiler_params=plgpu.CompilerParams(num_warps=blocks.warps, num_stages=blocks.stages),
    )


def cut(ref, rows, columns, limits=(None, None)):
    """The block of a matrix at (start, size) rows and columns; zeros outside of the limits."""
    inside = None
    for axis, ((start, size), limit) in enumerate(zip((rows, columns), limits, strict=True)):
        if limit is not None:
            within = jnp.expand_dims(start + jnp.arange(size) < limit, 1 - axis)
            inside = within if inside is None else inside & within
    at = ref.at[pl.ds(*rows), pl.ds(*columns)]
    if inside is None:
        return plgpu.load(at)
    inside = jnp.broadcast_to(inside, (rows[1], columns[1]))
    return plgpu.load(at, mask=inside, other=0.0)


def dot(a, b, **transposed):
    """a @ b, summed in float32; float32 operands are not rounded."""
    return plgpu.dot(a, b, allow_tf32=False, **transposed)


def block_of_logits(hidden_ref, table_ref, tokens, words, width: int, soft_cap):
    """Capped logits of (start, size) tokens and words."""
    depth, vocabulary = hidden_ref.shape[1], table_ref.shape[0]
    limit = depth if depth % width else None

    def step(index, total):
        columns = index * width, width
        states = cut(hidden_ref, tokens, columns, (None, limit))
        rows = cut(table_ref, words, columns, (vocabulary, limit)).astype(states.dtype)
        return total + dot(states, rows, trans_b=True)

    zeros = jnp.zeros((tokens[1], words[1]), jnp.float32)
    return sums_lib.cap(jax.lax.fori_loop(0, pl.cdiv(depth, width), step, zeros), soft_cap)


def _scores(
    counted_ref, start_ref, hidden_ref, table_ref, target_ref,
    peak_ref, best_ref, mass_ref, *more_refs, blocks, soft_cap, smoothed, gradient,
):  # fmt: skip
    """What a block of words adds to the sums of a block of tokens."""
    more = list(more_refs)
    total_ref = more.pop(0) if smoothed else None
    powers_ref = more.pop(0) if gradient else None
    slopes_ref = more.pop(0) if more else None
    part = pl.program_id(1)
    tokens = pl.program_id(0) * blocks.tokens, blocks.tokens
    columns = part * blocks.words, blocks.words
    words = start_ref[0] + columns[0], blocks.words

    @pl.when(tokens[0] < counted_ref[0])
    def _():
        logits = block_of_logits(hidden_ref, table_ref, tokens, words, blocks.width, soft_cap)
        ids = words[0] + jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
        exists = ids < table_ref.shape[0]
        target = plgpu.load(target_ref.at[pl.ds(*tokens)])
        others = exists & (ids != target[:, None])
        of_others = jnp.where(others, logits, LOWEST)
        peak = jnp.max(of_others, axis=1)
        leading = others & (logits == peak[:, None])
        powers = jnp.where(others, jnp.exp(logits - peak[:, None]), 0.0)
        plgpu.store(peak_ref.at[part, pl.ds(*tokens)], peak)
        best = jnp.min(jnp.where(leading, ids, NOBODY), axis=1)
        plgpu.store(best_ref.at[part, pl.ds(*tokens)], best)
        plgpu.store(mass_ref.at[part, pl.ds(*tokens)], jnp.sum(powers, axis=1))
        if total_ref is not None:
            total = jnp.sum(jnp.where(exists, logits, 0.0), axis=1)
            plgpu.store(total_ref.at[part, pl.ds(*tokens)], total)
        place = pl.ds(*tokens), pl.ds(*columns)
        if powers_ref is not None:
            dtype = powers_ref.dtype
            if soft_cap is not None:
                slopes = sums_lib.slope(logits, soft_cap)
                powers *= slopes
            powers *= sums_lib.scale(dtype)
            plgpu.store(powers_ref.at[place], powers.astype(dtype))
            if slopes_ref is not None:
                slopes = jnp.where(exists, sums_lib.scale(dtype) * slopes, 0.0)
                plgpu.store(slopes_ref.at[place], slopes.astype(dtype))


def _pull(
    counted_ref, start_ref, powers_ref, factor_ref, shrink_ref, table_ref, old_ref, new_ref,
    *, blocks, tile, chunk,
):  # fmt: skip
    """new = shrink * old + (factor * powers) @ rows, for a block of tokens and of the width."""
    vocabulary, depth = table_ref.shape
    tokens = pl.program_id(0) * blocks.tokens, blocks.tokens
    columns = pl.program_id(1) * blocks.width, blocks.width
    limit = depth if depth % blocks.width else None
    start = start_ref[0]

    @pl.when(tokens[0] < counted_ref[0])
    def _():
        def step(index, total):
            words = index * blocks.words, blocks.words
            powers = cut(powers_ref, tokens, words)
            factor = plgpu.load(factor_ref.at[words[0] // tile, pl.ds(*tokens)])
            powers = (powers.astype(jnp.float32) * factor[:, None]).astype(powers.dtype)
            rows = start + words[0], blocks.words
            rows = cut(table_ref, rows, columns, (vocabulary, limit)).astype(powers.dtype)
            return total + dot(powers, rows)

        zeros = jnp.zeros((blocks.tokens, blocks.width), jnp.float32)
        total = jax.lax.fori_loop(0, chunk // blocks.words, step, zeros)
        total *= 1.0 / sums_lib.scale(powers_ref.dtype)
        shrink = plgpu.load(shrink_ref.at[pl.ds(*tokens)])
        total += shrink[:, None] * cut(old_ref, tokens, columns, (None, limit))
        place = new_ref.at[pl.ds(*tokens), pl.ds(*columns)]
        inside = None
        if limit is not None:
            inside = columns[0] + jax.lax.broadcasted_iota(jnp.int32, total.shape, 1) < limit
        plgpu.store(place, total, mask=inside)


def sweep(hidden, table, targets, count, options, gradient, *, sizes: Sizes) -> Sums:
    """See `device.Implementation`."""
    (tokens, width), soft_cap = hidden.shape, options.soft_cap
    smoothed, capped = options.label_smoothing > 0, soft_cap is not None
    tiles = 1 + (smoothed and capped)
    size, number = chunks(tokens, table.shape[0], tiles * hidden.dtype.itemsize, sizes)
    parts = size // sizes.logits.words
    counted = count.reshape(1).astype(jnp.int32)

    statistic = jax.ShapeDtypeStruct((parts, tokens), jnp.float32)
    tile = jax.ShapeDtypeStruct((tokens, size), hidden.dtype)
    shapes = [statistic, jax.ShapeDtypeStruct((parts, tokens), jnp.int32), statistic]
    shapes += [statistic] * smoothed
    shapes += [tile] * (gradient * tiles)
    scores = call(
        functools.partial(
            _scores, blocks=sizes.logits, soft_cap=soft_cap, smoothed=smoothed, gradient=gradient
        ),
        (tokens // sizes.logits.tokens, parts),
        sizes.logits,
        shapes,
    )
    pull = call(
        functools.partial(_pull, blocks=sizes.pull, tile=sizes.logits.words, chunk=size),
        (tokens // sizes.pull.tokens, pl.cdiv(width, sizes.pull.width)),
        sizes.pull,
        jax.ShapeDtypeStruct((tokens, width), jnp.float32),
        {6: 0},
    )

    def over_words(index, old):
        start = (index * size).reshape(1).astype(jnp.int32)
        peaks, bests, masses, *more = scores(counted, start, hidden, table, targets)
        chunk_peak = jnp.max(peaks, axis=0)
        chunk_best = jnp.min(jnp.where(peaks == chunk_peak, bests, NOBODY), axis=0)
        peak = jnp.maximum(old.peak, chunk_peak)
        factors, shrink = jnp.exp(peaks - peak), jnp.exp(old.peak - peak)
        new = old._replace(
            peak=peak,
            best=sums_lib.prefer(old.peak, old.best, chunk_peak, chunk_best),
            mass=old.mass * shrink + jnp.sum(masses * factors, axis=0),
        )
        if smoothed:
            new = new._replace(total=old.total + jnp.sum(more.pop(0), axis=0))
        if gradient:
            powers = more.pop(0)
            new = new._replace(pull=pull(counted, start, powers, factors, shrink, table, old.pull))
        if old.flat is not None:
            slopes, ones = more.pop(0), jnp.ones_like(factors)
            new = new._replace(flat=pull(counted, start, slopes, ones, ones[0], table, old.flat))
        return new

    nothing = sums_lib.empty(tokens, width, options=options, gradient=gradient)
    return jax.lax.fori_loop(0, number, over_words, nothing)
