"""Which tokens are kept, as bits: the nth of them is found without an array of running counts."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt


def words(kept: Bool[Array, "n"]) -> UInt[Array, "w"]:
    """32 tokens a word, the first in the lowest bit."""
    padded = jnp.pad(kept, (0, -kept.size % 32)).reshape(-1, 32)
    return jnp.sum(padded.astype(jnp.uint32) << jnp.arange(32, dtype=jnp.uint32), axis=1)


def nth_kept(words: UInt[Array, "w"], nth: Int[Array, "T"]) -> Int[Array, "T"]:
    """Index of the token that has `nth` kept ones before it; any, if there are not that many."""
    counts = jax.lax.population_count(words).astype(jnp.int32)
    running = jnp.cumsum(counts)
    word = jnp.searchsorted(running, nth + 1, method="scan_unrolled")
    word = jnp.minimum(word, words.size - 1).astype(jnp.int32)
    left, rest = nth - (running - counts)[word], words[word]
    place = word * 32
    for width in (16, 8, 4, 2, 1):
        low = jax.lax.population_count(rest & jnp.uint32(2**width - 1)).astype(jnp.int32)
        higher = left >= low
        left = left - jnp.where(higher, low, 0)
        rest = jnp.where(higher, rest >> width, rest)
        place = place + jnp.where(higher, width, 0)
    return place
