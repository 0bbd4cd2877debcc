"""What is particular to the implementation for XLA: its tiles."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from medjax_kernels import Tokens, attention, selection
from medjax_kernels.attention import up_to, xla_tiles

SIGLIP, GEMMA = (16, 16, 72), (8, 1, 256)  # N, K, H
TILES = {  # device, B, T, S, heads -> queries and keys of a tile, forward and backward
    "short, CPU": ("cpu", 8, 256, 256, SIGLIP, (256, 256), (256, 256)),
    "long, CPU": ("cpu", 8, 4096, 4096, SIGLIP, (256, 256), (256, 256)),
    "short, GPU": ("gpu", 8, 256, 256, SIGLIP, (64, 32), (64, 32)),
    "one image, GPU": ("gpu", 1, 256, 256, SIGLIP, (128, 128), (128, 128)),
    "long, GPU": ("gpu", 8, 4096, 4096, SIGLIP, (256, 256), (256, 128)),
    "multi-query, GPU": ("gpu", 8, 1024, 1024, GEMMA, (128, 128), (128, 64)),
    "odd lengths": ("cpu", 1, 257, 600, GEMMA, (136, 200), (136, 200)),
    "decoding": ("gpu", 8, 1, 4000, GEMMA, (1, 1000), (1, 1000)),
    "one token": ("gpu", 1, 1, 1, GEMMA, (1, 1), (1, 1)),
}


@pytest.mark.parametrize(
    ("platform", "batch", "length", "others", "heads", "forward", "backward"),
    TILES.values(),
    ids=TILES.keys(),
)
def test_sizes_of_tiles(platform, batch, length, others, heads, forward, backward):
    query_heads, kv_heads, width = heads
    q = np.empty((batch, length, query_heads, width), np.float16)
    k = np.empty((batch, others, kv_heads, width), np.float16)
    with selection.assume(platform, (7, 0) if platform == "gpu" else None):
        assert xla_tiles.sizes(q, k) == (forward, backward)


@pytest.mark.parametrize("length", [1, 5, 6, 7])
def test_every_token_counts_in_one_tile(length):
    x = jnp.arange(1, length + 1)[None, :, None]
    size = min(3, length)
    again, counted = jnp.zeros_like(x), []
    for i in reversed(range(xla_tiles.count(length, size))):
        part = xla_tiles.cut(x, i, size)
        valid = xla_tiles.cut_tokens(Tokens(), i, size, length).valid
        counted += part[0, :, 0].tolist() if valid is None else part[valid].ravel().tolist()
        # What does not count is written first, and then anew.
        again = xla_tiles.put(again, part if valid is None else part * valid[..., None], i)
    assert sorted(counted) == list(range(1, length + 1))
    np.testing.assert_array_equal(again, x)


@pytest.fixture
def tiles_of_two(monkeypatch):
    def sizes(q, k):
        of = min(2, q.shape[1]), min(2, k.shape[1])
        return xla_tiles.Sizes(of, of)

    monkeypatch.setattr(xla_tiles, "sizes", sizes)


def run(q, k, v, d_out, **tokens):
    """Output and gradients, rounded wherever arrays are: unasked, XLA leaves that out on a CPU."""

    def function(q, k, v, d_out):
        attend = functools.partial(attention, **tokens, implementation="xla")
        out, pull = jax.vjp(attend, q, k, v)
        return out, *pull(d_out)

    rounded = {"xla_allow_excess_precision": False}
    lowered = jax.jit(function).lower(q, k, v, d_out)
    return lowered.compile(compiler_options=rounded)(q, k, v, d_out)


def draw(shape, dtype=jnp.float32, count=4, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal(shape), dtype) for _ in range(count)]


# Not a number in a tile that is computed would reach every result: 0 * NaN is NaN.
@pytest.mark.usefixtures("tiles_of_two")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16])
@pytest.mark.parametrize("side", ["queries", "keys"])
@pytest.mark.parametrize("heads", [1, 2], ids=["multi-head", "multi-query"])
def test_tiles_without_an_allowed_pair_are_not_computed(dtype, side, heads):
    arrays = draw((2, 7, heads, 4), dtype)
    q, d_out = arrays[0], arrays[3]
    k, v = (x[:, :, :1] for x in arrays[1:3])
    tokens = {side: Tokens(valid=up_to(jnp.array([2, 4]), 7))}
    empty = jnp.arange(7)[None, :, None, None] >= 4
    wanted = run(q, k, v, d_out, **tokens)
    if side == "keys":
        k, v = (jnp.where(empty, jnp.nan, x) for x in (k, v))
    else:
        q, d_out = (jnp.where(empty, jnp.nan, x) for x in (q, d_out))
    for found, other in zip(run(q, k, v, d_out, **tokens), wanted, strict=True):
        np.testing.assert_array_equal(found, other)
        assert np.abs(other).max() > 0.1


@pytest.mark.usefixtures("tiles_of_two")
def test_what_causal_queries_do_not_see_is_not_computed():
    q, k, v = draw((1, 7, 1, 4), count=3)
    causal = Tokens(block=jnp.arange(7)[None])
    attend = jax.jit(functools.partial(attention, queries=causal, keys=causal))
    wanted = attend(q, k, v)
    found = attend(q, k.at[:, 4:].set(jnp.nan), v.at[:, 4:].set(jnp.nan))
    np.testing.assert_array_equal(found[:, :4], wanted[:, :4])
    assert np.isnan(found[:, 4:]).all()
