"""Vector quantization against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from medjax.models.tokenizers import Codebook, Usage, VQConfig
from medjax.models.tokenizers.vector_quantization import (
    VectorQuantizer,
    nearest,
    prepared,
    updated,
    usage,
)

V, D = 7, 3


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture
def quantizer():
    """Makes a quantizer whose codes are given."""

    def make(codes: np.ndarray, **fields) -> VectorQuantizer:
        config = VQConfig(len(codes), codes.shape[1], **fields)
        made = VectorQuantizer(config, rngs=nnx.Rngs(0))
        made.codes.set_value(jnp.asarray(codes))
        return made

    return make


def test_the_nearest_code_is_chosen(quantizer):
    latents, codes = drawn(2, 4, 5, D), 2 * drawn(V, D, seed=1)
    wanted = ((latents[..., None, :] - codes) ** 2).sum(-1).argmin(-1)
    assert len(np.unique(wanted)) > 3
    result = quantizer(codes, distance="l2", commitment=0.25)(latents)
    np.testing.assert_array_equal(result.ids, wanted)
    np.testing.assert_array_equal(result.codes, codes[wanted])
    np.testing.assert_array_equal(result.latents, latents)
    commitment = 0.25 * ((latents - codes[wanted]) ** 2).mean(-1)
    np.testing.assert_allclose(result.commitment, commitment, rtol=1e-5)
    assert result.ids.dtype == jnp.int32


def test_with_the_cosine_only_directions_count(quantizer):
    latents, codes = 5 * drawn(20, D), unit(drawn(V, D, seed=1))
    result = quantizer(codes, distance="cosine")(latents)
    np.testing.assert_array_equal(result.ids, (unit(latents) @ codes.T).argmax(-1))
    np.testing.assert_allclose(result.latents, unit(latents), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(result.ids, quantizer(codes, distance="cosine")(latents / 50).ids)


def test_of_equal_codes_the_first_is_chosen():
    codes = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], np.float32)
    assert nearest(jnp.array([0.1, 0.8]), codes) == 1


def test_the_gradient_passes_straight_through_and_commitment_pulls(quantizer):
    latents, codes, weight = drawn(6, D), drawn(V, D, seed=1), drawn(6, D, seed=2)
    made = quantizer(codes, distance="l2", commitment=0.5)
    through = jax.grad(lambda x: jnp.sum(made(x).codes * weight))(latents)
    np.testing.assert_array_equal(through, weight)
    pull = jax.grad(lambda x: made(x).commitment.sum())(latents)
    chosen = codes[np.asarray(made(latents).ids)]
    np.testing.assert_allclose(pull, 0.5 * 2 * (latents - chosen) / D, rtol=1e-4, atol=1e-6)


def test_low_precision_latents_are_compared_in_float32(quantizer):
    latents = drawn(6, D).astype(jnp.bfloat16)
    result = quantizer(drawn(V, D, seed=1), distance="l2")(latents)
    assert result.codes.dtype == result.latents.dtype == result.commitment.dtype == jnp.float32


def test_usage_counts_and_sums():
    latents, ids = drawn(4, 5, D), np.random.default_rng(3).integers(0, V - 1, (4, 5))
    used = usage(latents, ids, V)
    for code in range(V):
        mine = latents[ids == code]
        assert used.counts[code] == len(mine)
        np.testing.assert_allclose(used.sums[code], mine.sum(0), rtol=1e-5, atol=1e-6)
    parts = [usage(latents[i : i + 2], ids[i : i + 2], V) for i in (0, 2)]
    np.testing.assert_array_equal(used.counts, parts[0].counts + parts[1].counts)


def test_codes_are_moving_averages_of_their_latents():
    """Against the textbook's three arrays: codes, counts and sums (arXiv:1711.00937, A.1)."""
    config = VQConfig(V, D, distance="l2", decay=0.8, restart_below=0.0)
    codes = drawn(V, D)
    counts = np.linspace(1, 2, V).astype(np.float32)
    codebook, sums = Codebook(codes, counts), counts[:, None] * codes
    for step in range(6):
        latents = drawn(15, D, seed=step)
        ids = np.asarray(nearest(latents, codebook.codes))
        members = np.eye(V)[ids]
        counts = 0.8 * counts + 0.2 * members.sum(0)
        sums = 0.8 * sums + 0.2 * members.T @ latents
        codebook, restarted = updated(codebook, usage(latents, ids, V), drawn(V, D), config)
        assert restarted == 0
        np.testing.assert_allclose(codebook.counts, counts, rtol=1e-5)
        np.testing.assert_allclose(codebook.codes, sums / counts[:, None], rtol=1e-4, atol=1e-5)


def test_with_the_cosine_codes_keep_their_length():
    config = VQConfig(V, D, decay=0.7, restart_below=0.0)
    codebook = Codebook(unit(drawn(V, D)), np.full(V, 2.0, np.float32))
    latents = unit(drawn(40, D, seed=4))
    ids = np.asarray(nearest(latents, codebook.codes))
    after, _ = updated(codebook, usage(latents, ids, V), drawn(V, D), config)
    sums = 0.7 * 2 * codebook.codes + 0.3 * np.eye(V)[ids].T @ latents
    np.testing.assert_allclose(after.codes, unit(sums), rtol=1e-4, atol=1e-5)


def test_dead_codes_start_anew_from_latents():
    config = VQConfig(4, 2, distance="l2", decay=0.9, restart_below=0.5)
    # 40 tokens: the mean code has 10, and 5 is the least to live with.
    used = Usage(np.array([36.0, 0.0, 4.0, 0.0], np.float32), np.zeros((4, 2), np.float32))
    counts = np.array([0.0, 6.0, 5.0, 5.4], np.float32)
    codes, fresh = drawn(4, 2), drawn(4, 2, seed=1)
    after, restarted = updated(Codebook(codes, counts), used, fresh, config)
    # 3.6, 5.4, 4.9 and 4.86: all but the second are dead.
    assert restarted == 3
    np.testing.assert_allclose(after.counts, [5, 5.4, 5, 5], rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(after.codes)[[0, 2, 3]], fresh[[0, 2, 3]])
    np.testing.assert_allclose(after.codes[1], codes[1], rtol=1e-6)


def test_a_code_that_is_never_used_stays_where_it_is():
    config = VQConfig(2, 1, distance="l2", decay=0.5, restart_below=0.0)
    codebook = Codebook(np.array([[3.0], [7.0]]), np.array([1.0, 1.0]))
    used = Usage(np.array([5.0, 0.0]), np.array([[10.0], [0.0]]))
    for _ in range(200):  # until its count is no number anymore
        codebook, _ = updated(codebook, used, np.zeros((2, 1)), config)
    assert codebook.counts[1] == 0
    np.testing.assert_allclose(codebook.codes, [[2.0], [7.0]], rtol=1e-6)


def test_prepared_takes_zeros():
    np.testing.assert_array_equal(prepared(jnp.zeros((2, 3)), "cosine"), np.zeros((2, 3)))
    gradient = jax.grad(lambda x: prepared(x, "cosine").sum())(jnp.zeros((2, 3)))
    assert np.isfinite(gradient).all()
