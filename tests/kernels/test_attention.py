"""Every attention implementation against the same sums in NumPy float64, gradients included."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from medjax_kernels import Tokens, attention
from medjax_kernels.attention import allowed, tile_sizes, up_to, xla_tiles
from medjax_kernels.attention.tokens import with_positions

NOTHING = Tokens()


def xla_small_tiles(q, k, v, **options):
    """xla with tiles that are not square, and that divide few of the lengths here."""

    def sizes(q, k):
        def of(rows, columns):
            return min(rows, q.shape[1]), min(columns, k.shape[1])

        return xla_tiles.Sizes(of(3, 2), of(2, 3))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(xla_tiles, "sizes", sizes)
        return attention(q, k, v, **options, implementation="xla")


def pallas_triton_small_tiles(q, k, v, **options):
    """pallas_triton with the smallest tiles that a GPU takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tile_sizes, "tile_size", lambda *_: tile_sizes.TileSize(16, 16, 4, 1))
        return attention(q, k, v, **options, implementation="pallas_triton")


# A further implementation joins the whole suite with one line.
IMPLEMENTATIONS = {
    "reference": functools.partial(attention, implementation="reference"),
    "xla": functools.partial(attention, implementation="xla"),
    "xla-small-tiles": xla_small_tiles,
    "pallas_triton": functools.partial(attention, implementation="pallas_triton"),
    "pallas_triton-small-tiles": pallas_triton_small_tiles,
}
every_implementation = pytest.mark.parametrize(
    "attend", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS.keys()
)

LENGTHS = st.integers(1, 9)
SHAPES = st.tuples(  # B, T, S, K, G, H
    st.integers(1, 2), LENGTHS, LENGTHS, st.integers(1, 2), st.integers(1, 3), st.integers(1, 8)
)
RULES = ["none", "block", "segment", "modality", "valid", "all"]
WINDOWS = [None, 1, 3]


def numpy_attention(q, k, v, may, scale, soft_cap, d_out):
    """Output and gradients [B, heads, ...] of q, k, v, one batch row and query head at a time."""
    q, k, v, d_out = (np.asarray(x, np.float64) for x in (q, k, v, d_out))
    out, d_q, d_k, d_v = (np.zeros_like(x) for x in (q, q, k, v))
    group = q.shape[2] // k.shape[2]
    for b in range(q.shape[0]):
        for n in range(q.shape[2]):
            keys, values = k[b, :, n // group], v[b, :, n // group]
            logits = q[b, :, n] @ keys.T * scale
            slope = np.ones_like(logits)
            if soft_cap is not None:
                slope = 1 - np.tanh(logits / soft_cap) ** 2
                logits = soft_cap * np.tanh(logits / soft_cap)
            weights = np.exp(logits) * may[b]
            total = weights.sum(axis=1, keepdims=True)
            probs = weights / np.where(total == 0, 1, total)
            out[b, :, n] = probs @ values
            d_probs = d_out[b, :, n] @ values.T
            d_logits = probs * (d_probs - (d_probs * probs).sum(axis=1, keepdims=True))
            d_logits = d_logits * slope * scale
            d_q[b, :, n] = d_logits @ keys
            d_k[b, :, n // group] += d_logits.T @ q[b, :, n]
            d_v[b, :, n // group] += probs.T @ d_out[b, :, n]
    return out, d_q, d_k, d_v


def numpy_allowed(queries: Tokens, keys: Tokens, shape, window=None) -> np.ndarray:
    batch, length, others = shape
    may = np.ones(shape, bool)
    for b, t, s in np.ndindex(batch, length, others):
        if queries.block is not None:
            may[b, t, s] &= keys.block[b, s] <= queries.block[b, t]
        if queries.segment is not None:
            may[b, t, s] &= keys.segment[b, s] == queries.segment[b, t]
        if queries.modality is not None:
            may[b, t, s] &= keys.modality[b, s] == queries.modality[b, t]
        if window is not None:
            here = t if queries.position is None else queries.position[b, t]
            there = s if keys.position is None else keys.position[b, s]
            may[b, t, s] &= abs(int(here) - int(there)) < window
        if queries.valid is not None:
            may[b, t, s] &= queries.valid[b, t]
        if keys.valid is not None:
            may[b, t, s] &= keys.valid[b, s]
    return may


def draw(seed, shape, dtype=np.float32):
    batch, length, others, heads, kv_heads, width = shape
    rng = np.random.default_rng(seed)
    sizes = [(batch, length, heads, width)] + 2 * [(batch, others, kv_heads, width)]
    q, k, v, d_out = (rng.standard_normal(s).astype(dtype) for s in (*sizes, sizes[0]))
    return q, k, v, d_out


def draw_tokens(seed, rule, batch, length) -> Tokens:
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, 3, (4, batch, length)).astype(np.int32)
    return Tokens(
        block=np.sort(numbers[0], axis=1) if rule in ("block", "all") else None,
        segment=numbers[1] if rule in ("segment", "all") else None,
        modality=numbers[2] if rule in ("modality", "all") else None,
        position=numbers[3] if rule == "all" else None,
        valid=rng.random((batch, length)) < 0.7 if rule in ("valid", "all") else None,
    )


def run(attend, q, k, v, d_out, **options):
    """Output and gradients, rounded wherever arrays are: unasked, XLA leaves that out on a CPU."""

    def function(q, k, v, d_out):
        out, pull = jax.vjp(functools.partial(attend, **options), q, k, v)
        return out, *pull(d_out)

    rounded = {"xla_allow_excess_precision": False}
    lowered = jax.jit(function).lower(q, k, v, d_out)
    return lowered.compile(compiler_options=rounded)(q, k, v, d_out)


@every_implementation
class TestEveryImplementation:
    # Every shape is compiled anew, so there are few.
    @settings(max_examples=8, deadline=None, derandomize=True)
    @example(shape=(2, 7, 9, 2, 2, 6), rule="all", soft_cap=1.5, scale=0.7, window=3, seed=0)
    @example(shape=(2, 1, 8, 1, 3, 5), rule="valid", soft_cap=1.5, scale=None, window=None, seed=1)
    @given(
        shape=SHAPES,
        rule=st.sampled_from(RULES),
        soft_cap=st.sampled_from([None, 1.5]),
        scale=st.sampled_from([None, 0.7]),
        window=st.sampled_from(WINDOWS),
        seed=st.integers(0, 3),
    )
    def test_output_and_gradients(self, attend, shape, rule, soft_cap, scale, window, seed):
        batch, length, others, kv_heads, group, width = shape
        arrays = draw(seed, (batch, length, others, kv_heads * group, kv_heads, width))
        queries = draw_tokens(seed + 10, rule, batch, length)
        keys = draw_tokens(seed + 20, rule, batch, others)
        if window and length != others:
            queries, keys = (with_positions(x, n) for x, n in ((queries, length), (keys, others)))
        options = dict(scale=scale, soft_cap=soft_cap, window=window)
        found = run(attend, *arrays, queries=queries, keys=keys, **options)
        may = numpy_allowed(queries, keys, (batch, length, others), window)
        q, k, v, d_out = arrays
        scale = width**-0.5 if scale is None else scale
        wanted = numpy_attention(q, k, v, may, scale, soft_cap, d_out)
        chex.assert_trees_all_close(found, wanted, rtol=1e-4, atol=1e-5)

    # Inputs are rounded before both sides see them. What differs is the rounding of the softmax
    # and of the results: half a unit in the last place of numbers up to 4 is 2^-7 in bfloat16
    # (8 bits) and 2^-10 in float16 (11 bits); gradients, sums over queries, round a few times more.
    @pytest.mark.parametrize(
        ("dtype", "tolerance"),
        [(jnp.float32, 1e-5), (jnp.bfloat16, 5e-2), (jnp.float16, 8e-3)],
        ids=["float32", "bfloat16", "float16"],
    )
    def test_dtypes(self, attend, dtype, tolerance):
        shape = (2, 7, 7, 4, 2, 8)
        arrays = [jnp.asarray(x, dtype) for x in draw(0, shape)]
        tokens = Tokens(block=np.maximum(np.arange(7) - 3, 0)[None].repeat(2, 0))
        found = run(attend, *arrays, queries=tokens, keys=tokens)
        chex.assert_trees_all_equal_dtypes(found, (arrays[0], *arrays[:3]))
        may = numpy_allowed(tokens, tokens, (2, 7, 7))
        q, k, v, d_out = arrays
        wanted = numpy_attention(q, k, v, may, 8**-0.5, None, d_out)
        found = jax.tree.map(lambda x: np.asarray(x, np.float64), found)
        chex.assert_trees_all_close(found, wanted, rtol=tolerance, atol=tolerance)

    # Products of small gradients and probabilities, and of large gradients and values, are no
    # float16 numbers (the least is 6e-8, the greatest 65,504), though the gradients are.
    @pytest.mark.parametrize(
        ("scale", "small", "large"),  # powers of two of q, k, v, d_out
        [(None, (-6, 6, 0, -18), (-6, -6, 8, 12)), (256.0, (-10, 2, 0, -18), (-15, -14, 8, 12))],
        ids=["usual scale", "large scale"],
    )
    def test_gradients_beyond_the_range_of_float16(self, attend, scale, small, large):
        arrays = draw(7, (2, 64, 64, 4, 2, 8))
        for row, kv_head in np.ndindex(2, 2):  # neighbours differ in rows and in heads
            powers = small if row == kv_head else large
            for x, power in zip(arrays, powers, strict=True):
                x.reshape(2, 64, 2, -1, 8)[row, :, kv_head] *= 2.0**power
        arrays = [jnp.asarray(x, jnp.float16) for x in arrays]
        found = run(attend, *arrays, scale=scale)
        q, k, v, d_out = arrays
        wanted = numpy_attention(q, k, v, np.ones((2, 64, 64)), scale or 8**-0.5, None, d_out)
        for x, y in zip(found, wanted, strict=True):
            x, y = (np.asarray(a, np.float64).reshape(2, 64, 2, -1, 8) for a in (x, y))
            # Rounding to the spacing of the least float16 numbers, and to 11 bits a few times.
            atol = 2.0**-25 + 4e-3 * np.abs(y).max(axis=(1, 3, 4), keepdims=True)
            np.testing.assert_array_less(np.abs(x - y) / atol, 1)

    @pytest.mark.parametrize("side", ["queries", "keys"])
    def test_a_row_that_may_attend_to_nothing_is_zero(self, attend, side):
        q, k, v, d_out = draw(1, (2, 5, 5, 2, 1, 4))
        valid = np.ones((2, 5), bool)
        valid[0] = False  # the whole first row, for every key or every query
        found = run(attend, q, k, v, d_out, **{side: Tokens(valid=valid)})
        chex.assert_tree_all_finite(found)
        for part in found:
            np.testing.assert_array_equal(part[0], 0)
            assert np.abs(part[1]).max() > 0.1

    def test_large_logits_do_not_overflow(self, attend):
        q, k, v, d_out = draw(2, (1, 4, 6, 2, 2, 4))
        found = run(attend, 100 * q, 100 * k, v, d_out)
        chex.assert_tree_all_finite(found)
        # With logits this far apart, softmax picks the key of the largest one.
        best = np.einsum("BTNH,BSNH->BNTS", q, k).argmax(axis=-1)
        for n in range(2):
            np.testing.assert_allclose(found[0][0, :, n], v[0, best[0, n], n], atol=1e-5)

    @pytest.mark.parametrize("empty", range(3), ids=["batch", "queries", "keys"])
    def test_nothing_gives_nothing(self, attend, empty):
        sizes = [2, 3, 4]
        sizes[empty] = 0
        batch, length, others = sizes
        q, k, v, d_out = draw(7, (batch, length, others, 2, 1, 4))
        tokens = Tokens(block=np.zeros((1, others), np.int32))
        found = run(attend, q, k, v, d_out, keys=tokens)
        for part, like in zip(found, (q, q, k, v), strict=True):
            np.testing.assert_array_equal(part, np.zeros_like(like))

    def test_small_and_unsigned_integers_do_not_wrap(self, attend):
        q, k, v, d_out = draw(8, (1, 6, 6, 2, 1, 4))
        plain = Tokens(position=np.arange(6, dtype=np.int32)[None])
        small = Tokens(position=np.arange(6, dtype=np.uint8)[None])
        wanted = run(attend, q, k, v, d_out, queries=plain, keys=plain, window=2)
        found = run(attend, q, k, v, d_out, queries=small, keys=small, window=2)
        chex.assert_trees_all_equal(found, wanted)

    def test_tokens_may_be_shared_by_all_rows(self, attend):
        q, k, v, d_out = draw(3, (2, 4, 4, 2, 1, 4))
        one = Tokens(block=np.arange(4)[None], valid=np.array([[True, True, True, False]]))
        both = jax.tree.map(lambda x: np.repeat(x, 2, axis=0), one)
        found = run(attend, q, k, v, d_out, queries=one, keys=one)
        wanted = numpy_attention(q, k, v, numpy_allowed(both, both, (2, 4, 4)), 0.5, None, d_out)
        chex.assert_trees_all_close(found, wanted, rtol=1e-4, atol=1e-5)

    def test_later_keys_change_nothing_for_a_prefix_lm(self, attend):
        q, k, v, _ = draw(4, (1, 6, 6, 2, 1, 4))
        tokens = Tokens(block=np.array([[0, 0, 0, 1, 2, 3]]))
        before = np.asarray(attend(q, k, v, queries=tokens, keys=tokens))  # done before they change
        k[:, 4], v[:, 4] = 9.0, -9.0
        after = attend(q, k, v, queries=tokens, keys=tokens)
        np.testing.assert_array_equal(before[:, :4], after[:, :4])
        assert np.abs(before[:, 4:] - after[:, 4:]).min(axis=(0, 2, 3)).min() > 1e-3

    @pytest.mark.parametrize("length", [1, 3])
    def test_decoding_reads_a_cache_up_to_each_rows_length(self, attend, length):
        q, k, v, d_out = draw(5, (3, length, 9, 4, 2, 8))
        lengths = np.array([0, 4, 9])
        keys = Tokens(valid=np.asarray(up_to(jnp.asarray(lengths), 9)))
        found = run(attend, q, k, v, d_out, keys=keys)
        may = numpy_allowed(NOTHING, keys, (3, length, 9))
        wanted = numpy_attention(q, k, v, may, 8**-0.5, None, d_out)
        chex.assert_trees_all_close(found, wanted, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(found[0][0], 0)

    def test_a_packed_decoder_of_separate_modalities(self, attend):
        # Two samples; the first has two modalities, one of them causal, and a token of padding.
        tokens = Tokens(
            segment=np.array([[0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1]]),
            modality=np.array([[3, 3, 3, 7, 7, 7, 7, 3, 3, 3, 3]]),
            block=np.array([[0, 0, 0, 1, 2, 3, 4, 5, 5, 5, 5]]),
            valid=np.arange(11)[None] != 6,
        )
        drawn = """
            xxx........
            xxx........
            xxx........
            ...x.......
            ...xx......
            ...xxx.....
            ...........
            .......xxxx
            .......xxxx
            .......xxxx
            .......xxxx
        """
        may = np.array([[c == "x" for c in line] for line in drawn.split()])[None]
        q, k, v, d_out = draw(6, (1, 11, 11, 2, 2, 4))
        found = run(attend, q, k, v, d_out, queries=tokens, keys=tokens)
        wanted = numpy_attention(q, k, v, may, 0.5, None, d_out)
        chex.assert_trees_all_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_allowed_draws_the_mask():
    tokens = Tokens(
        block=jnp.array([[0, 0, 1, 2]]),
        segment=jnp.array([[5, 5, 5, 6]]),
        valid=jnp.array([[True, True, True, False]]),
    )
    blocks = [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    np.testing.assert_array_equal(allowed(Tokens(tokens.block), Tokens(tokens.block))[0], blocks)
    everything = [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(allowed(tokens, tokens)[0], everything)
    assert allowed(Tokens(), Tokens()) is None


def largest_intermediate(function, *arguments) -> int:
    """Elements of the largest array that a traced function makes, loops' bodies included."""

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (variable.aval.size for variable in equation.outvars)
            for inner in jax.core.jaxprs_in_params(equation.params):
                yield from sizes(inner)

    return max(sizes(jax.make_jaxpr(function)(*arguments).jaxpr))


@pytest.mark.parametrize(("implementation", "holds_all"), [("reference", True), ("xla", False)])
def test_only_the_reference_holds_all_logits(implementation, holds_all):
    batch, length, heads, width = 2, 2048, 4, 8
    x = jax.ShapeDtypeStruct((batch, length, heads, width), jnp.float32)
    ids = jax.ShapeDtypeStruct((batch, length), jnp.int32)

    def loss(q, k, v, block):
        tokens = Tokens(block=block)
        out = attention(q, k, v, queries=tokens, keys=tokens, implementation=implementation)
        return out.sum()

    largest = largest_intermediate(jax.grad(loss, argnums=(0, 1, 2)), x, x, x, ids)
    # In xla, the largest is the logits of one tile.
    side = length if holds_all else xla_tiles.MAX_SIDE
    assert largest == batch * heads * side * side


BAD = {
    "rank": (dict(q=(2, 3, 4)), "expected q"),
    "values unlike keys": (dict(v=(1, 5, 2, 4)), "expected q"),
    "batch": (dict(q=(2, 3, 4, 4)), "share batch"),
    "head width": (dict(q=(1, 3, 4, 8)), "share batch"),
    "heads": (dict(q=(1, 3, 3, 4)), "multiple"),
}


@pytest.mark.parametrize(("shapes", "message"), BAD.values(), ids=BAD.keys())
def test_bad_shapes(shapes, message):
    good = dict(q=(1, 3, 4, 4), k=(1, 6, 2, 4), v=(1, 6, 2, 4))
    with pytest.raises(ValueError, match=message):
        attention(**{name: jnp.zeros(shape) for name, shape in (good | shapes).items()})


def test_other_bad_arguments():
    x = jnp.zeros((2, 3, 2, 4))
    with pytest.raises(ValueError, match="float dtype"):
        attention(x, x.astype(jnp.bfloat16), x)
    with pytest.raises(ValueError, match="float dtype"):
        attention(*3 * [x.astype(jnp.int32)])
    with pytest.raises(ValueError, match=r"queries.block has shape \(2, 4\)"):
        attention(x, x, x, queries=Tokens(block=jnp.zeros((2, 4), jnp.int32)))
    for window in (0, 2.5):
        with pytest.raises(ValueError, match=f"window is {window}"):
            attention(x, x, x, window=window)
    with pytest.raises(ValueError, match="needs `position` on both sides"):
        attention(x[:, :1], x, x, window=2)
    for soft_cap in (0.0, -1.0):
        with pytest.raises(ValueError, match=f"soft_cap is {soft_cap}"):
            attention(x, x, x, soft_cap=soft_cap)
    with pytest.raises(ValueError, match=r"keys.valid is int32, expected bool"):
        attention(x, x, x, keys=Tokens(valid=jnp.ones((2, 3), jnp.int32)))
    with pytest.raises(ValueError, match=r"queries.block is float32, expected integers"):
        attention(x, x, x, queries=Tokens(block=jnp.ones((2, 3))))
    with pytest.raises(ValueError, match=r"keys.valid has shape \(3,\)"):
        attention(x, x, x, keys=Tokens(valid=jnp.ones(3, bool)))
    with pytest.raises(ValueError, match="'fused' is none of auto, pallas_triton, xla, reference"):
        attention(x, x, x, implementation="fused")
