"""Losses and metrics against NumPy."""

import jax
import numpy as np
import pytest

from medjax.errors import UserError
from medjax.models.tokenizers import losses, metrics

RNG = np.random.default_rng(0)
IMAGES, TRUTH = RNG.uniform(-1, 1, (2, 3, 6, 5, 2)).astype(np.float32)
LOGITS = RNG.standard_normal((3, 6, 5, 4)).astype(np.float32)
MASKS = RNG.integers(0, 4, (3, 6, 5))


def test_reconstruction_is_a_mean_over_each_image(config):
    std = np.array((0.5, 2.0), np.float32)
    made = config(channels=2, mean=(0.0, 0.0), std=(0.5, 2.0))
    scaled = (IMAGES - TRUTH) / std
    l2, l1 = (losses.reconstruction(made, name)(IMAGES, TRUTH) for name in ("l2", "l1"))
    np.testing.assert_allclose(l2, (scaled**2).reshape(3, -1).mean(1), rtol=1e-5)
    np.testing.assert_allclose(l1, abs(scaled).reshape(3, -1).mean(1), rtol=1e-5)
    plain = losses.reconstruction(config(channels=2, mean=(), std=()), "l1")(IMAGES, TRUTH)
    np.testing.assert_allclose(plain, abs(IMAGES - TRUTH).reshape(3, -1).mean(1), rtol=1e-5)


def test_cross_entropy_passes_over_unknown_pixels(config):
    masks = MASKS.copy()
    masks[0, :3], masks[0, 3], masks[2] = 255, -1, 4
    log_prob = LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True))
    wanted = [
        np.mean([-log_prob[i, y, x, masks[i, y, x]] for y, x in np.ndindex(6, 5)
                 if 0 <= masks[i, y, x] < 4])
        for i in (0, 1)
    ]  # fmt: skip
    made = config(kind="mask", channels=4)
    found = losses.reconstruction(made, "cross_entropy")(LOGITS, masks)
    np.testing.assert_allclose(found, [*wanted, 0.0], rtol=1e-5)


@pytest.mark.parametrize(("kind", "name"), [("mask", "l2"), ("image", "cross_entropy")])
def test_a_loss_of_the_other_kind_is_refused(config, kind, name):
    with pytest.raises(UserError, match=f"reconstruction loss '{name}': of kind '{kind}' it is"):
        losses.reconstruction(config(kind=kind), name)


def test_psnr():
    wanted = [10 * np.log10(4 / np.mean((a - b) ** 2)) for a, b in zip(IMAGES, TRUTH, strict=True)]
    np.testing.assert_allclose(metrics.psnr(IMAGES, TRUTH, 2.0), wanted, rtol=1e-5)
    assert np.isinf(metrics.psnr(IMAGES, IMAGES, 2.0)).all()
    # An error of a hundredth of the range is 40 dB.
    np.testing.assert_allclose(metrics.psnr(TRUTH + 0.02, TRUTH, 2.0), 40, atol=1e-3)


def test_dice():
    labels, truth = LOGITS.argmax(-1), MASKS.copy()
    labels[1], truth[1] = np.minimum(labels[1], 2), np.minimum(truth[1], 2)
    truth[2, :2] = 255
    found = jax.jit(metrics.dice, static_argnums=2)(labels, truth, 4)
    for i, c in np.ndindex(3, 4):
        known = truth[i] != 255
        a, b = (labels[i] == c) & known, (truth[i] == c) & known
        if (i, c) == (1, 3):
            assert np.isnan(found[i, c])
        else:
            np.testing.assert_allclose(found[i, c], 2 * (a & b).sum() / (a.sum() + b.sum()))
    np.testing.assert_array_equal(metrics.dice(MASKS, MASKS, 4), np.ones((3, 4)))


def test_use_and_perplexity_of_a_codebook():
    counts = metrics.code_counts(np.array([[0, 0, 3], [3, 5, 5]]), 8)
    np.testing.assert_array_equal(counts, [2, 0, 0, 2, 0, 2, 0, 0])
    assert metrics.codebook_use(counts) == 3 / 8
    np.testing.assert_allclose(metrics.perplexity(counts), 3, rtol=1e-6)
    share = np.array([0.1, 0.2, 0.7])
    wanted = np.exp(-(share * np.log(share)).sum())
    np.testing.assert_allclose(metrics.perplexity(1000 * share), wanted, rtol=1e-5)
    assert metrics.perplexity(np.zeros(4)) == 0
