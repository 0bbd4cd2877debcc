"""Draws have the model's distribution; the nucleus, the seed and best of n do what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from medjax.decoding import Answers, DecodeConfig, sampling

STEPS = 6


@pytest.fixture(scope="module")
def prompts(make_prompts):
    return make_prompts([5, 2, 7, 4], total=8)


@pytest.fixture(scope="module")
def run(decoder_for, prompts):
    def run(seed=0, eos_id=7, keep_logits=False, **settings):
        decoder = decoder_for(DecodeConfig(**settings), eos_id)
        return decoder(*prompts, seed=seed, keep_logits=keep_logits)

    return run


def _draw(probs, count, temperature, top_p):
    keys = jax.random.split(jax.random.key(0), count)
    logits = jnp.broadcast_to(jnp.log(probs), (count, len(probs)))
    pick = jax.jit(sampling.sampler(keys, temperature, top_p))
    return np.bincount(pick(logits, jnp.int32(3)), minlength=len(probs))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_match_softmax(temperature):
    probs = np.array([0.4, 0.05, 0.25, 0.01, 0.29])
    expected = probs ** (1 / temperature)
    expected *= 20_000 / expected.sum()
    counts = _draw(probs, 20_000, temperature, top_p=1.0)
    assert stats.chisquare(counts, expected).pvalue > 0.001
    wrong = probs**3 / (probs**3).sum() * 20_000
    assert stats.chisquare(counts, wrong).pvalue < 1e-6, "the test has no power"


def test_nucleus_frequencies():
    counts = _draw(np.array([0.4, 0.05, 0.25, 0.01, 0.29]), 20_000, 1.0, top_p=0.6)
    assert counts[[1, 2, 3]].sum() == 0
    assert stats.chisquare(counts[[0, 4]], 20_000 * np.array([0.4, 0.29]) / 0.69).pvalue > 0.001


def test_nucleus_is_taken_at_the_temperature():
    # Squared and normalised, 0.4 of [0.4, 0.3, 0.3] becomes 0.47, and 0.45 is reached by it alone.
    probs = np.array([0.3, 0.4, 0.3])
    assert (_draw(probs, 200, 1.0, top_p=0.45) > 0).sum() == 2
    assert (_draw(probs, 200, 0.5, top_p=0.45) > 0).sum() == 1


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.01, [1]), (0.49, [1]), (0.51, [1, 3]), (0.79, [1, 3]),
                        (0.81, [0, 1, 3]), (0.96, [0, 1, 2, 3]), (1.0, [0, 1, 2, 3])]
)  # fmt: skip
def test_nucleus_by_hand(top_p, kept):
    logits = jnp.log(jnp.array([[0.15, 0.5, 0.05, 0.3]])) + 2.0
    np.testing.assert_array_equal(np.flatnonzero(sampling.nucleus(logits, top_p)), kept)


@pytest.mark.parametrize(("temperature", "top_p"), [(1e-6, 1.0), (1e-6, 0.5), (2.0, 1e-6)])
def test_becomes_greedy(temperature, top_p):
    logits = jax.random.normal(jax.random.key(1), (200, 30)) * 5.0
    pick = sampling.sampler(jax.random.split(jax.random.key(2), 200), temperature, top_p)
    np.testing.assert_array_equal(pick(logits, 0), sampling.greedy(logits, 0))


def test_seeds(run):
    settings = dict(method="sample", max_new_tokens=STEPS)
    first = run(seed=1, **settings)
    np.testing.assert_array_equal(first.tokens, run(seed=1, **settings).tokens)
    assert (np.asarray(first.tokens) != np.asarray(run(seed=2, **settings).tokens)).any()
    # Rows and steps draw apart from each other.
    drawn = {tuple(row) for row in np.asarray(first.tokens).tolist()}
    assert len(drawn) == 4


def test_log_probs_are_the_models_own(run, log_softmax):
    answers = run(
        method="sample", max_new_tokens=STEPS, temperature=3.0, top_p=0.8, eos_id=999,
        keep_logits=True,
    )  # fmt: skip
    tokens = np.asarray(answers.tokens)[..., None]
    expected = np.take_along_axis(log_softmax(answers.logits), tokens, axis=-1)[..., 0]
    np.testing.assert_allclose(answers.log_probs, expected, atol=1e-6)


def test_more_samples_are_never_worse(run):
    settings = dict(method="sample", max_new_tokens=STEPS)
    means = [np.asarray(run(num_samples=n, **settings).mean_log_prob) for n in (1, 2, 8)]
    assert (means[1] >= means[0] - 1e-6).all()
    assert (means[2] >= means[1] - 1e-6).all()
    assert (means[2] > means[0]).any()


def test_best_is_by_mean_per_token():
    answers = Answers(
        tokens=jnp.arange(8).reshape(4, 2),
        log_probs=jnp.array([[-1.0, 0.0], [-0.9, -0.9], [-0.2, -0.2], [-0.3, 0.0]]),
        lengths=jnp.array([1, 2, 2, 1]),
    )
    best = sampling.best(answers, 2)
    np.testing.assert_array_equal(best.tokens, [[2, 3], [4, 5]])
    np.testing.assert_array_equal(best.lengths, [2, 2])
    np.testing.assert_allclose(best.mean_log_prob, [-0.9, -0.2])
