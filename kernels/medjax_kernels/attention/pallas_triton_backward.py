"""Gradients of fused attention: probabilities are recomputed from the log-sum-exp, tile by tile.

One kernel walks over keys and sums dq of a tile of queries, another walks over the queries of all
heads of a group and sums dk and dv of a tile of keys (FlashAttention-2, arXiv:2307.08691). No
program adds to what another one writes, so results are the same in every run.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from medjax_kernels.attention import float16, tile_sizes
from medjax_kernels.attention.options import Options
from medjax_kernels.attention.pallas_triton_tiles import (
    Pieces,
    bounds,
    dot,
    dot_pieces,
    gain_spec,
    group_spec,
    head_spec,
    inside,
    load,
    load_tokens,
    load_vector,
    logits,
    may_attend,
    params,
    range_specs,
    row_spec,
    store,
    token_specs,
    zeros,
)
from medjax_kernels.attention.tile_sizes import TileSize
from medjax_kernels.attention.tiles import ranges_of
from medjax_kernels.attention.tokens import Tokens
from medjax_kernels.selection import Device


def backward(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    queries: Tokens,
    keys: Tokens,
    out: Float[Array, "B T N H"],
    lse: Float[Array, "B N T"],
    d_out: Float[Array, "B T N H"],
    options: Options,
    device: Device,
) -> tuple[Float[Array, "B T N H"], Float[Array, "B S K H"], Float[Array, "B S K H"]]:
    """(dq, dk, dv) in the dtypes of q, k, v; `lse` is in base 2."""
    products = d_out.astype(jnp.float32) * out.astype(jnp.float32)
    # What a row's logits' gradients are lowered by; the scale is the logits'.
    delta = options.scale * products.sum(axis=-1).swapaxes(1, 2)
    gain = float16.gain(d_out, v, options.scale)
    arrays = (q, k, v, queries, keys, d_out, lse, delta, gain)
    return d_q(*arrays, options, device), *d_kv(*arrays, options, device)


def _weights(x: Array, lse: Array, may: Array | None) -> Array:
    """Probabilities of a tile; zero where a row's log-sum-exp is that of no logits at all."""
    weights = jnp.exp2(x - lse)
    return weights if may is None else jnp.where(may, weights, 0.0)


def _d_logits(weights, d_weights, delta, slope, options: Options, gain: Array | None) -> Array:
    """Gradient of q @ k.T, times `gain`; `_without` takes it from the sums again."""
    scale = options.scale if gain is None else options.scale * gain
    delta = delta if gain is None else delta * gain
    found = weights * (d_weights * scale - delta)
    return found if slope is None else found * slope


def _without(gain: Array | None, sums: Pieces) -> Pieces:
    return sums if gain is None else tuple(s / gain for s in sums)


def d_q(
    q, k, v, queries, keys, d_out, lse, delta, gain, options, device, tile: TileSize | None = None
):  # fmt: skip
    """Gradient of the queries.

    Args:
      delta, gain: those of `backward`.
      tile: is found if None.
    """
    batch, length, heads, width = q.shape
    others, kv_heads = k.shape[1:3]
    group = heads // kv_heads
    lengths = (length, others)
    tile = tile or tile_sizes.tile_size(device, width, q.dtype, "d_q", lengths)
    key_range, _ = ranges_of(queries, keys, options.window, lengths, tile[:2])
    kernel = functools.partial(
        _d_q_kernel, options=options, tile=tile, lengths=lengths, width=width
    )
    return pl.pallas_call(
        kernel,
        grid=(pl.cdiv(length, tile.queries), heads, batch),
        in_specs=[
            head_spec(length, width),
            *2 * [head_spec(others, width, group)],
            token_specs(queries),
            token_specs(keys),
            head_spec(length, width),
            *2 * [row_spec(length)],
            gain_spec(gain, group),
            range_specs(key_range),
        ],
        out_specs=head_spec(length, width),
        out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
        compiler_params=params(tile),
        interpret=device.platform == "cpu",
        name="attention_d_q",
    )(q, k, v, queries, keys, d_out, lse, delta, gain, key_range)


def _d_q_kernel(
    q_ref, k_ref, v_ref, queries, keys, d_out_ref, lse_ref, delta_ref, gain_ref, key_range, d_q_ref,
    *, options, tile, lengths, width,
):  # fmt: skip
    start = pl.program_id(0) * tile.queries
    length, others = lengths
    q = load(q_ref, start, tile.queries, length, width)
    d_out = load(d_out_ref, start, tile.queries, length, width)
    lse = load_vector(lse_ref, start, tile.queries, length, 0.0)[:, None]
    delta = load_vector(delta_ref, start, tile.queries, length, 0.0)[:, None]
    queries = load_tokens(queries, start, tile.queries, length)
    gain = None if gain_ref is None else gain_ref[...]

    def step(index, sums):
        first = index * tile.keys
        k = load(k_ref, first, tile.keys, others, width)
        v = load(v_ref, first, tile.keys, others, width)
        x, slope = logits(dot_pieces(q, k), options)
        may = may_attend(
            queries,
            load_tokens(keys, first, tile.keys, others),
            options.window,
            inside(first, tile.keys, others),
            query_axis=0,
        )
        weights = _weights(x, lse, may)
        d_x = _d_logits(weights, dot_pieces(d_out, v), delta, slope, options, gain)
        d_x = d_x.astype(k[0].dtype)
        return tuple(s + dot(d_x, piece) for s, piece in zip(sums, k, strict=True))

    begin, end = bounds(key_range, pl.cdiv(others, tile.keys))
    sums = jax.lax.fori_loop(begin, end, step, zeros(tile.queries, width))
    store(d_q_ref, start, _without(gain, sums), length, width)


def d_kv(
    q, k, v, queries, keys, d_out, lse, delta, gain, options, device, tile: TileSize | None = None
):  # fmt: skip
    """Gradients of keys and values; arguments as of `d_q`."""
    batch, length, heads, width = q.shape
    others, kv_heads = k.shape[1:3]
    group = heads // kv_heads
    lengths = (length, others)
    tile = tile or tile_sizes.tile_size(device, width, q.dtype, "d_kv", lengths)
    _, query_range = ranges_of(queries, keys, options.window, lengths, tile[:2])
    kernel = functools.partial(
        _d_kv_kernel, options=options, tile=tile, lengths=lengths, width=width, group=group
    )
    q, d_out = (x.reshape(batch, length, kv_heads, group, width) for x in (q, d_out))
    lse, delta = (x.reshape(batch, kv_heads, group, length) for x in (lse, delta))
    return pl.pallas_call(
        kernel,
        grid=(pl.cdiv(others, tile.keys), kv_heads, batch),
        in_specs=[
            group_spec(length, width, group),
            *2 * [head_spec(others, width)],
            token_specs(queries),
            token_specs(keys),
            group_spec(length, width, group),
            *2 * [pl.BlockSpec((None, None, group, length), lambda s, k, b: (b, k, 0, 0))],
            gain_spec(gain),
            range_specs(query_range),
        ],
        out_specs=2 * [head_spec(others, width)],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (k, v)],
        compiler_params=params(tile),
        interpret=device.platform == "cpu",
        name="attention_d_kv",
    )(q, k, v, queries, keys, d_out, lse, delta, gain, query_range)


def _d_kv_kernel(
    q_ref, k_ref, v_ref, queries, keys, d_out_ref, lse_ref, delta_ref, gain_ref, query_range,
    d_k_ref, d_v_ref, *, options, tile, lengths, width, group,
):  # fmt: skip
    start = pl.program_id(0) * tile.keys
    length, others = lengths
    k = load(k_ref, start, tile.keys, others, width)
    v = load(v_ref, start, tile.keys, others, width)
    keys = load_tokens(keys, start, tile.keys, others)
    gain = None if gain_ref is None else gain_ref[...]
    begin, end = bounds(query_range, pl.cdiv(length, tile.queries))
    count = end - begin

    def step(index, sums):
        head = jax.lax.div(index, count)
        first = (begin + index - head * count) * tile.queries
        q = load(q_ref, first, tile.queries, length, width, head)
        d_out = load(d_out_ref, first, tile.queries, length, width, head)
        # Queries behind the last have probability zero. Keys behind the last are not stored.
        lse = load_vector(lse_ref, first, tile.queries, length, jnp.inf, head)[None]
        delta = load_vector(delta_ref, first, tile.queries, length, 0.0, head)[None]
        x, slope = logits(dot_pieces(k, q), options)
        may = may_attend(
            load_tokens(queries, first, tile.queries, length), keys, options.window, None,
            query_axis=1,
        )  # fmt: skip
        weights = _weights(x, lse, may)
        d_x = _d_logits(weights, dot_pieces(v, d_out), delta, slope, options, gain)
        weights, d_x = weights.astype(q[0].dtype), d_x.astype(q[0].dtype)
        d_k, d_v = sums
        return (
            tuple(s + dot(d_x, piece) for s, piece in zip(d_k, q, strict=True)),
            tuple(s + dot(weights, piece) for s, piece in zip(d_v, d_out, strict=True)),
        )

    sums = (zeros(tile.keys, width), zeros(tile.keys, width))
    d_k, d_v = jax.lax.fori_loop(0, count * group, step, sums)
    store(d_k_ref, start, _without(gain, d_k), others, width)
    store(d_v_ref, start, d_v, others, width)
