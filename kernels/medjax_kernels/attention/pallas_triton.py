"""Fused attention for GPUs of compute capability 8.0 and up, in Pallas with its Triton backend.

A program holds one tile of queries of one head and walks over the tiles of keys that may hold an
allowed pair, with a running softmax: nothing of size T x S exists outside of a tile (Dao et al.,
FlashAttention, arXiv:2205.14135; Dao, FlashAttention-2, arXiv:2307.08691). Where queries are few,
as in decoding, the keys are split among programs, and their results combined afterwards
(Flash-Decoding, https://pytorch.org/blog/flash-decoding/).
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float

from medjax_kernels import selection
from medjax_kernels.attention import tile_sizes
from medjax_kernels.attention.options import Options
from medjax_kernels.attention.pallas_triton_backward import backward
from medjax_kernels.attention.pallas_triton_tiles import (
    bounds,
    dot,
    dot_pieces,
    head_spec,
    inside,
    load,
    load_tokens,
    logits,
    may_attend,
    params,
    range_specs,
    store,
    token_specs,
    zeros,
)
from medjax_kernels.attention.partitioned import (
    KEYS,
    QUERIES,
    ROWS,
    on_each_device,
    token_letters,
)
from medjax_kernels.attention.parts import padded
from medjax_kernels.attention.tile_sizes import TileSize
from medjax_kernels.attention.tiles import ranges_of
from medjax_kernels.attention.tokens import Tokens
from medjax_kernels.selection import Device

# What a row's largest logit starts from: finite, so that a row without any logit stays free of NaN.
_FLOOR = float(jnp.finfo(jnp.float32).min) / 2


def attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    queries: Tokens,
    keys: Tokens,
    options: Options,
) -> Float[Array, "B T N H"]:
    """See `api.attention`."""
    return _attention(q, k, v, queries, keys, options, selection.device())


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _attention(q, k, v, queries, keys, options, device):
    return _attention_forward(q, k, v, queries, keys, options, device)[0]


def _attention_forward(q, k, v, queries, keys, options, device):
    function = functools.partial(forward, options=options, device=device)
    letters = (QUERIES, KEYS, KEYS, token_letters(queries, "t"), token_letters(keys, "s"))
    out, lse = on_each_device(function, letters, (QUERIES, ROWS), q, k, v, queries, keys)
    return out, (q, k, v, queries, keys, out, lse)


def _attention_backward(options, device, residuals, d_out):
    _, _, _, queries, keys, _, _ = residuals
    function = functools.partial(backward, options=options, device=device)
    tokens = (token_letters(queries, "t"), token_letters(keys, "s"))
    letters = (QUERIES, KEYS, KEYS, *tokens, QUERIES, ROWS, QUERIES)
    results = (QUERIES, KEYS, KEYS)
    return *on_each_device(function, letters, results, *residuals, d_out), None, None


_attention.defvjp(_attention_forward, _attention_backward)


def forward(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    queries: Tokens,
    keys: Tokens,
    options: Options,
    device: Device,
    tile: TileSize | None = None,
) -> tuple[Float[Array, "B T N H"], Float[Array, "B N T"]]:
    """(output, log-sum-exp of each row's logits in base 2); `tile` is found if None."""
    batch, length, heads, width = q.shape
    kv_heads = k.shape[2]
    group = heads // kv_heads
    if length * group > tile_sizes.FEW_QUERIES:
        return _forward(q, k, v, queries, keys, options, device, tile, "forward")
    # The heads of a group become queries of one head, so that they share its tiles of keys.
    q = q.reshape(batch, length, kv_heads, group, width).swapaxes(2, 3)
    q = q.reshape(batch, length * group, kv_heads, width)
    queries = jax.tree.map(lambda x: jnp.repeat(x, group, axis=1), queries)
    out, lse = _forward(q, k, v, queries, keys, options, device, tile, "few_queries")
    out = out.reshape(batch, length, group, kv_heads, width).swapaxes(2, 3)
    lse = lse.reshape(batch, kv_heads, length, group).swapaxes(2, 3)
    return out.reshape(batch, length, heads, width), lse.reshape(batch, heads, length)


def _forward(q, k, v, queries, keys, options, device, tile, kind):
    batch, length, heads, width = q.shape
    others, kv_heads = k.shape[1:3]
    group = heads // kv_heads
    lengths = (length, others)
    tile = tile or tile_sizes.tile_size(device, width, q.dtype, kind, lengths)
    key_range, _ = ranges_of(queries, keys, options.window, lengths, tile[:2])
    rows = pl.cdiv(length, tile.queries)
    parts = 1
    if kind == "few_queries":
        parts = tile_sizes.key_splits(rows * heads * batch, pl.cdiv(others, tile.keys))
    kernel = functools.partial(
        _kernel, options=options, tile=tile, lengths=lengths, width=width, parts=parts
    )
    out, lse = pl.pallas_call(
        kernel,
        grid=(rows * parts, heads, batch),
        in_specs=[
            head_spec(length, width),
            *2 * [head_spec(others, width, group)],
            token_specs(queries),
            token_specs(keys),
            range_specs(key_range, parts),
        ],
        out_specs=[
            pl.BlockSpec(
                (None, None, length, None, padded(width)), lambda i, n, b: (i % parts, b, 0, n, 0)
            ),
            pl.BlockSpec((None, None, None, length), lambda i, n, b: (i % parts, b, n, 0)),
        ],
        out_shape=[
            jax.ShapeDtypeStruct((parts, *q.shape), q.dtype if parts == 1 else jnp.float32),
            jax.ShapeDtypeStruct((parts, batch, heads, length), jnp.float32),
        ],
        compiler_params=params(tile),
        interpret=device.platform == "cpu",
        name="attention_forward",
    )(q, k, v, queries, keys, key_range)
    if parts == 1:
        return out[0], lse[0]
    out, lse = _combine(out, lse)
    return out.astype(q.dtype), lse


def _combine(out: Float[Array, "parts B T N H"], lse: Float[Array, "parts B N T"]):
    """Output and log-sum-exp of all keys from those of their parts."""
    top = lse.max(axis=0)
    top = jnp.where(jnp.isfinite(top), top, 0.0)  # a row that may attend to nothing
    weights = jnp.exp2(lse - top)
    total = weights.sum(axis=0)
    weights = weights / jnp.where(total == 0.0, 1.0, total)
    out = jnp.sum(out * weights.swapaxes(2, 3)[..., None], axis=0)
    return out, top + jnp.log2(total)


def _kernel(
    q_ref, k_ref, v_ref, queries, keys, key_range, out_ref, lse_ref,
    *, options, tile, lengths, width, parts,
):  # fmt: skip
    start = pl.program_id(0) // parts * tile.queries
    length, others = lengths
    q = load(q_ref, start, tile.queries, length, width)
    queries = load_tokens(queries, start, tile.queries, length)

    def step(index, carry):
        sums, total, top = carry
        first = index * tile.keys
        k = load(k_ref, first, tile.keys, others, width)
        x, _ = logits(dot_pieces(q, k), options)
        may = may_attend(
            queries,
            load_tokens(keys, first, tile.keys, others),
            options.window,
            inside(first, tile.keys, others),
            query_axis=0,
        )
        if may is not None:
            x = jnp.where(may, x, -jnp.inf)
        higher = jnp.maximum(top, x.max(axis=1))
        weights = jnp.exp2(x - higher[:, None])
        shrink = jnp.exp2(top - higher)
        v = load(v_ref, first, tile.keys, others, width)
        rounded = weights.astype(v[0].dtype)
        sums = tuple(
            s * shrink[:, None] + dot(rounded, piece) for s, piece in zip(sums, v, strict=True)
        )
        return sums, total * shrink + weights.sum(axis=1), higher

    begin, end = bounds(key_range, pl.cdiv(others, tile.keys))
    if parts > 1:
        share = (end - begin + parts - 1) // parts
        begin = begin + pl.program_id(0) % parts * share
        end = jnp.minimum(begin + share, end)
    carry = (
        zeros(tile.queries, width),
        jnp.zeros(tile.queries, jnp.float32),
        jnp.full(tile.queries, _FLOOR, jnp.float32),
    )
    sums, total, top = jax.lax.fori_loop(begin, end, step, carry)
    divisor = jnp.where(total == 0.0, 1.0, total)[:, None]
    store(out_ref, start, tuple(s / divisor for s in sums), length, width)
    lse = top + jnp.log2(total)
    rows = pl.ds(start, tile.queries)
    plgpu.store(lse_ref.at[rows], lse, mask=inside(start, tile.queries, length))
