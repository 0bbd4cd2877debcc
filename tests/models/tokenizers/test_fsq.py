"""Finite scalar quantization against its paper (arXiv:2309.15505)."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.models.tokenizers import FSQConfig
from medjax.models.tokenizers.fsq import FSQ, bound


@pytest.mark.parametrize("levels", [(3, 5, 4), (8, 8, 8, 5, 5, 5), (2, 7), (2,)])
def test_every_id_has_a_code_and_every_code_its_id(levels):
    quantizer, config = FSQ(FSQConfig(levels)), FSQConfig(levels)
    assert config.num_codes == np.prod(levels)
    ids = np.random.default_rng(0).permutation(config.num_codes)[:4000].reshape(2, -1)
    codes = np.asarray(quantizer.lookup(ids))
    assert codes.shape == (*ids.shape, len(levels))
    # The latents of which the codes are the roundings: the inverse of the bound, in float64.
    values = codes.astype(np.float64) * (np.array(levels) // 2)
    half = (np.array(levels) - 1) * (1 - 1e-3) / 2
    offset = np.where(np.array(levels) % 2 == 1, 0.0, 0.5)
    inside = np.clip((values + offset) / half, -1 + 1e-6, 1 - 1e-6)
    latents = np.arctanh(inside) - np.tan(offset / half)
    result = quantizer(jnp.asarray(latents, jnp.float32))
    np.testing.assert_array_equal(result.ids, ids)
    np.testing.assert_array_equal(result.codes, codes)
    assert result.ids.dtype == jnp.int32
    assert result.codes.dtype == jnp.float32
    np.testing.assert_array_equal(result.commitment, np.zeros(ids.shape))


def test_ids_count_like_the_papers():
    """Equation and listing of A.1: sum of (code * half width + half width) * basis."""
    levels = (3, 4, 5)
    codes = [
        [(value - level // 2) / (level // 2) for value, level in zip(digits, levels, strict=True)]
        for digits in ((c, b, a) for a, b, c in itertools.product(range(5), range(4), range(3)))
    ]
    np.testing.assert_allclose(FSQ(FSQConfig(levels)).lookup(np.arange(60)), codes, rtol=1e-6)


@pytest.mark.parametrize(("level", "least", "greatest"), [(2, -1, 0), (3, -1, 1), (4, -2, 1),
                                                          (5, -2, 2), (8, -4, 3)])  # fmt: skip
def test_rounding_gives_as_many_values_as_there_are_levels(level, least, greatest):
    values = np.round(bound(jnp.linspace(-20, 20, 4001)[:, None], np.array([level])))
    np.testing.assert_array_equal(np.unique(values), np.arange(least, greatest + 1))


@pytest.mark.parametrize("levels", [(3,), (4, 8)])
def test_the_bound_is_the_papers(levels):
    latents = np.random.default_rng(1).normal(0, 2, (50, len(levels)))
    wanted = []
    for latent in latents:
        row = []
        for z, level in zip(latent, levels, strict=True):
            half_l = (level - 1) * (1 - 1e-3) / 2
            offset = 0.0 if level % 2 == 1 else 0.5
            row.append(np.tanh(z + np.tan(offset / half_l)) * half_l - offset)
        wanted.append(row)
    found = bound(jnp.asarray(latents, jnp.float32), np.array(levels))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_the_gradient_passes_rounding():
    levels, latents = (5, 4), np.random.default_rng(2).standard_normal((6, 2)).astype(np.float32)
    through = jax.grad(lambda x: FSQ(FSQConfig(levels))(x).codes.sum())(latents)
    smooth = jax.grad(lambda x: (bound(x, np.array(levels)) / np.array([2, 2])).sum())(latents)
    np.testing.assert_allclose(through, smooth, rtol=1e-6)
    assert np.abs(through).min() > 0
