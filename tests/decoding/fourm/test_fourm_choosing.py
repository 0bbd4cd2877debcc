"""Draws have the distribution they should have, and never leave the set that is drawn from."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.decoding.fourm.choosing import choose

LOGITS = np.log([0.05, 0.3, 0.02, 0.25, 0.08, 0.2, 0.1]).astype(np.float32)
DRAWS = 4000


def drawn(temperature, **filters):
    keys = jax.random.split(jax.random.key(0), DRAWS)
    logits = jnp.tile(jnp.array(LOGITS), (DRAWS, 1))
    heat = jnp.full(DRAWS, temperature)
    return jax.jit(functools.partial(choose, **filters))(keys, logits, heat)


@pytest.mark.parametrize(
    ("temperature", "filters", "allowed"),
    [
        (1.0, {}, range(7)),
        (0.5, {}, range(7)),
        (1.0, {"top_k": 3}, [1, 3, 5]),
        (3.0, {"top_k": 3}, [1, 3, 5]),
        (1.0, {"top_k": 99}, range(7)),
        # 0.3 + 0.25 + 0.2 = 0.75 are too few, with 0.1 they are enough.
        (2.0, {"top_p": 0.8}, [1, 3, 5, 6]),
        (1.0, {"top_p": 0.7}, [1, 3, 5]),
        (9.0, {"top_p": 0.1}, [1]),
        # Of the best four, two have 0.65 of the probability.
        (1.5, {"top_k": 4, "top_p": 0.6}, [1, 3]),
    ],
)
def test_distribution(temperature, filters, allowed):
    chosen = drawn(temperature, **filters)
    counts = np.bincount(chosen.tokens, minlength=7)
    wanted = np.zeros(7)
    wanted[list(allowed)] = np.exp(LOGITS[list(allowed)] / temperature)
    wanted /= wanted.sum()
    assert not counts[wanted == 0].any()
    deviation = np.sqrt(DRAWS * wanted * (1 - wanted))
    assert (np.abs(counts - DRAWS * wanted) <= 4 * deviation).all()
    np.testing.assert_allclose(np.exp(chosen.drawn), wanted[chosen.tokens], rtol=1e-4)
    np.testing.assert_allclose(np.exp(chosen.own), np.exp(LOGITS)[chosen.tokens], rtol=1e-4)


@pytest.mark.parametrize("filters", [{}, {"top_k": 3}, {"top_p": 0.8}])
@pytest.mark.parametrize("temperature", [0.0, 1e-9])
def test_without_heat_the_most_probable(filters, temperature):
    chosen = drawn(temperature, **filters)
    assert (chosen.tokens == 1).all()
    np.testing.assert_allclose(chosen.drawn, 0.0, atol=1e-6)
    np.testing.assert_allclose(chosen.own, np.log(0.3), rtol=1e-5)


def test_equal_logits_are_no_more_than_k():
    keys = jax.random.split(jax.random.key(0), 200)
    chosen = choose(keys, jnp.zeros((200, 9)), jnp.ones(200), top_k=2)
    assert len(np.unique(chosen.tokens)) == 2


def test_many_places_of_a_row():
    logits = jnp.array(np.random.default_rng(0).standard_normal((3, 50, 11)), jnp.float32)
    keys = jax.random.split(jax.random.key(1), 3)
    chosen = choose(keys, logits, jnp.array([0.0, 1.0, 1.0]), top_k=2)
    np.testing.assert_array_equal(chosen.tokens[0], logits[0].argmax(axis=-1))
    second = np.argsort(-np.asarray(logits), axis=-1)[..., :2]
    assert (second == np.asarray(chosen.tokens)[..., None]).any(axis=-1).all()
    assert not np.array_equal(chosen.tokens[1], logits[1].argmax(axis=-1))
    alone = choose(keys[2:], logits[2:], jnp.array([1.0]), top_k=2)
    np.testing.assert_array_equal(alone.tokens[0], chosen.tokens[2])
