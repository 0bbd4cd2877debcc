"""Losses by modality and what is made of them, against sums written out."""

import jax.numpy as jnp
import numpy as np

from medjax.models.fourm import ModalityLosses, by_modality, logit_mean, modality_mean, token_mean

LOSS = jnp.array([[1.0, 2.0, 4.0, 100.0], [8.0, 16.0, 100.0, 100.0]])
MODALITY = jnp.array([[5, 5, 7, 5], [7, 3, 3, -1]])
VALID = jnp.array([[True, True, True, False], [True, True, False, False]])


def test_sums():
    losses = by_modality(LOSS, MODALITY, VALID, [7, 5, 4])
    np.testing.assert_array_equal(losses.loss, [12, 3, 0])
    np.testing.assert_array_equal(losses.tokens, [2, 2, 0])
    np.testing.assert_array_equal(losses.mean, [6, 1.5, 0])


def test_losses_that_do_not_count_may_be_anything():
    losses = by_modality(LOSS.at[0, 3].set(jnp.nan), MODALITY, VALID, [7, 5])
    np.testing.assert_array_equal(losses.loss, [12, 3])


def test_parts_of_a_batch_add_up():
    whole = by_modality(LOSS, MODALITY, VALID, [7, 5])
    parts = [
        by_modality(LOSS[i : i + 1], MODALITY[i : i + 1], VALID[i : i + 1], [7, 5]) for i in (0, 1)
    ]
    for a, b, total in zip(*parts, whole, strict=True):
        np.testing.assert_array_equal(a + b, total)


def test_means():
    losses = ModalityLosses(jnp.array([12.0, 3.0, 0.0]), jnp.array([2.0, 6.0, 0.0]))
    assert token_mean(losses) == 15 / 8
    assert modality_mean(losses) == (6 + 0.5) / 2
    np.testing.assert_allclose(modality_mean(losses, absent_as_zero=True), (6 + 0.5) / 3, rtol=1e-6)
    assert logit_mean(losses, [10, 100, 1000]) == (12 * 10 + 3 * 100) / (2 * 10 + 6 * 100)


def test_no_tokens_no_loss():
    nothing = ModalityLosses(jnp.zeros(2), jnp.zeros(2))
    for loss in (token_mean(nothing), modality_mean(nothing), logit_mean(nothing, [4, 5])):
        assert loss == 0
