"""Tiles that hold an allowed pair are never left out, and of ordered tokens no other is kept."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medjax_kernels.attention.tiles import ranges
from medjax_kernels.attention.tokens import Tokens, allowed, up_to, with_positions

FIELDS = ["block", "segment", "modality", "position", "valid"]


def tiles_with_a_pair(queries, keys, window, lengths, sizes):
    may = allowed(queries, keys, window)
    may = np.ones((1, *lengths), bool) if may is None else np.asarray(may)
    pads = [(0, -n % size) for n, size in zip(lengths, sizes, strict=True)]
    may = np.pad(may, [(0, 0), *pads])
    rows, columns = (may.shape[i + 1] // sizes[i] for i in (0, 1))
    return may.reshape(len(may), rows, sizes[0], columns, sizes[1]).any(axis=(2, 4))


def check(queries, keys, window, lengths, sizes, *, exact):
    """`exact`: whether the pairs of each row of tiles lie side by side."""
    wanted = tiles_with_a_pair(queries, keys, window, lengths, sizes)
    for found, tiles in zip(
        ranges(queries, keys, window, lengths, sizes), (wanted, wanted.swapaxes(1, 2)), strict=True
    ):
        index = np.arange(tiles.shape[2])
        first, last = (np.asarray(x)[..., None] for x in found)
        kept = np.broadcast_to((first <= index) & (index < last), tiles.shape)
        assert not (tiles & ~kept).any()
        if exact:
            np.testing.assert_array_equal(kept, tiles)


def draw(rng, batch, length, names):
    fields = {
        name: rng.integers(-3, 4, (batch, length)).astype(np.int32)
        for name in names
        if name != "valid"
    }
    if "valid" in names:
        fields["valid"] = rng.random((batch, length)) < 0.4
    return Tokens(**{name: jnp.asarray(value) for name, value in fields.items()})


# Every pair of lengths is compiled anew, so there are few.
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 99),
    lengths=st.sampled_from([(1, 7), (5, 1), (6, 6), (9, 8)]),
    sizes=st.sampled_from([(1, 1), (2, 3), (4, 2), (16, 16)]),
    names=st.sets(st.sampled_from(FIELDS)),
    window=st.sampled_from([None, 1, 3]),
)
def test_no_allowed_pair_is_left_out(seed, lengths, sizes, names, window):
    rng = np.random.default_rng(seed)
    queries, keys = (with_positions(draw(rng, 2, n, names), n) for n in lengths)
    check(queries, keys, window, lengths, sizes, exact=False)


def of(*lengths):
    """0 for the first length, 1 for the next, ..."""
    return jnp.asarray(np.repeat(np.arange(len(lengths)), lengths)[None].astype(np.int32))


ORDERED = {
    "full": (Tokens(), None),
    "causal": (Tokens(block=jnp.arange(12)[None]), None),
    "prefix": (Tokens(block=jnp.maximum(jnp.arange(12) - 4, 0)[None]), None),
    "packed": (Tokens(segment=of(5, 4, 3), block=jnp.arange(12)[None]), None),
    "modalities": (Tokens(modality=of(2, 7, 3)), None),
    "window": (Tokens(position=jnp.arange(12)[None]), 3),
    "causal window": (Tokens(position=jnp.arange(12)[None], block=jnp.arange(12)[None]), 3),
    "cache": (Tokens(valid=up_to(jnp.array([7, 0, 12]), 12)), None),
}


@pytest.mark.parametrize("sizes", [(1, 1), (2, 4), (5, 3)])
@pytest.mark.parametrize(("tokens", "window"), ORDERED.values(), ids=ORDERED.keys())
def test_of_ordered_tokens_nothing_is_computed_in_vain(tokens, window, sizes):
    # A tile's bounds do not tell that a window or a causal row is met by one corner alone where
    # the other rule is met by another: such tiles are kept.
    exact = not (window and tokens.block is not None and sizes != (1, 1))
    check(tokens, tokens, window, (12, 12), sizes, exact=exact)


def test_nothing_valid_gives_empty_ranges():
    nothing = Tokens(valid=jnp.zeros((1, 6), bool))
    for found in ranges(nothing, nothing, None, (6, 6), (2, 3)):
        np.testing.assert_array_equal(found.first, 0)
        np.testing.assert_array_equal(found.last, 0)
