"""Masking draws what 4M draws: against recorded draws of the original, NumPy, and closed forms."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import masking_schemes
import masking_sets
import numpy as np
import numpy_masking
import pytest
from masking_schemes import SCHEMES, SENTINELS
from medjax_kernels.masking import Masked, dirichlet, masking
from scipy import special, stats

RECORDED = pathlib.Path(__file__).parents[1] / "reference" / "4m_masking_counts.npz"
LEAST_P = 1e-3


def p_value(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Of the two-sample Kolmogorov-Smirnov test; counts have ties, for which it is too high."""
    return stats.ks_2samp(ours, theirs, method="asymp").pvalue


def draw(scheme, tokens, lengths, count: int, at_once: int = 2000) -> Masked:
    """Masks one and the same sample many times."""

    @jax.jit
    def run(keys):
        rows = jax.tree.map(lambda x: jnp.broadcast_to(x, (at_once, *x.shape)), (tokens, lengths))
        return masking(scheme, *rows, keys)

    keys = jax.random.split(jax.random.key(2), count).reshape(-1, at_once)
    parts = [jax.device_get(run(part)) for part in keys]
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


@functools.cache
def five_modalities() -> Masked:
    tokens, lengths, _ = masking_sets.samples(1)
    one = jax.tree.map(lambda x: x[0], (tokens, lengths))
    return draw(masking_sets.five_modalities(), *one, 20_000)


@pytest.mark.parametrize("side", ["input", "target"])
def test_counts_are_those_of_4m(side):
    with np.load(RECORDED) as file:
        recorded, names = file[f"{side}_tokens"], file["modalities"]
    counts = getattr(five_modalities(), f"{side}_counts")
    assert counts.shape == recorded.shape
    assert counts.sum(axis=1).max() <= 128
    for i, name in enumerate(names):
        assert name == masking_sets.five_modalities().modalities[i].name
        p = p_value(counts[:, i], recorded[:, i])
        assert p > LEAST_P, name


def test_every_token_of_an_image_is_as_likely():
    """Deviations beyond 4.5 standard errors: once in 700 such tests."""
    out = five_modalities()
    for packed in (out.encoder, out.decoder):
        where = packed.valid & (packed.modality == 1)
        counts = np.bincount(packed.positions[where], minlength=196)
        rate = counts.mean() / len(where)
        error = np.sqrt(len(where) * rate * (1 - rate))
        assert np.abs(counts - counts.mean()).max() < 4.5 * error


def features(out, names: list[str]) -> dict[str, np.ndarray]:
    """What of masked samples is compared: counts, spans of sequences, windows of their targets."""
    result = {}
    encoder, decoder = (
        side if isinstance(side, dict) else side._asdict() for side in (out.encoder, out.decoder)
    )
    for i, name in enumerate(names):
        result[f"{name} inputs"] = out.input_counts[:, i]
        result[f"{name} targets"] = out.target_counts[:, i]
        mine = encoder["modality"] == i
        result[f"{name} spans"] = (mine & np.isin(encoder["tokens"], SENTINELS)).sum(axis=1)
        mine = decoder["modality"] == i
        first = np.where(mine & (decoder["positions"] == 0), decoder["tokens"], 0).sum(axis=1)
        result[f"{name} begins"] = first
        result[f"{name} place"] = np.where(mine.any(axis=1), mine.argmax(axis=1), -1)
        result[f"{name} sum"] = np.where(mine, decoder["positions"], 0).sum(axis=1)
    result["inputs"], result["targets"] = (
        out.input_counts.sum(axis=1),
        out.target_counts.sum(axis=1),
    )
    result["valid"] = decoder["valid"].sum(axis=1)
    return result


@pytest.mark.parametrize("name", SCHEMES)
def test_all_else_is_drawn_as_in_numpy(name):
    """Every mixture, floor, cap, keep scheme and window: 4,000 draws of either side."""
    scheme = SCHEMES[name]
    tokens, _, _, _ = masking_schemes.samples(scheme, 1, seed=6)
    tokens = {key: x[0] for key, x in tokens.items()}
    lengths = {m.name: jnp.int32(m.max_tokens) for m in scheme.modalities if m.kind == "sequence"}
    ours = features(draw(scheme, tokens, lengths, 4000), [m.name for m in scheme.modalities])
    rows = jax.tree.map(lambda x: np.broadcast_to(x, (4000, *x.shape)), (tokens, lengths))
    peer = numpy_masking.batch(numpy_masking.Masker(scheme, seed=1), *rows)
    theirs = features(peer, [m.name for m in scheme.modalities])
    for key, values in ours.items():
        assert p_value(values, theirs[key]) > LEAST_P, key


def test_numpy_draws_as_4m():
    """The peer of the benchmark follows the original, too."""
    tokens, lengths = jax.device_get(masking_sets.samples(4000)[:2])
    out = numpy_masking.batch(
        numpy_masking.Masker(masking_sets.five_modalities(), seed=0), tokens, lengths
    )
    with np.load(RECORDED) as file:
        for side, counts in (("input", out.input_counts), ("target", out.target_counts)):
            for i in range(5):
                p = p_value(counts[:, i], file[f"{side}_tokens"][:, i])
                assert p > LEAST_P


@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.3, 1.0, 10.0, 1e6])
def test_gamma_quantiles(alpha):
    """Of 32 random bits, and of the least and greatest ones; in log2, whose 2**-16th is the unit.

    Interpolation is off by (1/64)**2 / 8 of log2's curvature, less than 3 / alpha or 3.
    """
    edges = [0, 1, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1]
    bits = np.append(np.random.default_rng(0).integers(0, 2**32, 2000), edges).astype(np.uint32)
    table = jnp.asarray(dirichlet.log2_gamma_table(alpha))[None]
    found = dirichlet.log2_gamma(table, jnp.zeros(len(bits), jnp.int32), jnp.asarray(bits))
    # The first bit says from which end the others count.
    low = bits < 2**31
    share = (2.0 * (bits & np.uint32(2**31 - 1)) + 1) / 2**33
    exact = np.where(low, special.gammaincinv(alpha, share), special.gammainccinv(alpha, share))
    small = (
        np.log2(np.where(low, share, 1 - share)) + special.gammaln(alpha + 1) / np.log(2)
    ) / alpha
    with np.errstate(divide="ignore"):
        exact = np.where(exact > 1e-200, np.log2(exact), small)
    exact = np.clip(exact, -(2**15) + 1, None)
    tolerance = 1e-4 * max(1.0, 1 / alpha) + 2.0**-16
    np.testing.assert_allclose(np.array(found) / 2**16, exact, atol=tolerance)


def test_shares_are_exact():
    """As in integers without bounds; all of the total but less than one for each modality."""
    rng = np.random.default_rng(1)
    logs = rng.integers(-(10**6), 10**5, (500, 7)).astype(np.int32)
    possible = rng.random((500, 7)) < 0.7
    possible[:, 0] = True
    total = rng.integers(0, 129, 500)
    found = jax.vmap(lambda *x: dirichlet.shares(*x, greatest=128))(
        jnp.asarray(logs), jnp.asarray(possible), jnp.asarray(total)
    )
    weights = np.where(possible, 2.0 ** (logs / 2**16 - logs.max(axis=1, keepdims=True) / 2**16), 0)
    exact = total[:, None] * weights / weights.sum(axis=1, keepdims=True)
    # Weights have 20 bits: 128 * 7 * 2**-20 at most, plus what interpolation misses.
    assert np.abs(found + 0.5 - exact).max() < 0.5 + 2e-3
    left = total - found.sum(axis=1)
    assert left.min() >= 0
    assert (left < possible.sum(axis=1)).all()


def test_the_greatest_share():
    """Of two, the probability is that of a beta variable beyond one half."""
    for a, b in [(1.0, 3.0), (0.01, 0.02), (50.0, 60.0), (0.001, 10.0)]:
        found = dirichlet.greatest_share((a, 0.0, b))
        expected = special.betaincc(a, b, 0.5)
        np.testing.assert_allclose(found, [expected, 0.0, 1 - expected], atol=1e-7)
    np.testing.assert_allclose(dirichlet.greatest_share((0.2,) * 6), np.full(6, 1 / 6), atol=1e-12)
    np.testing.assert_array_equal(dirichlet.greatest_share((0.0, 0.7)), [0.0, 1.0])
    rng = np.random.default_rng(0)
    drawn = rng.dirichlet((0.5, 1.0, 2.0, 4.0), 200_000).argmax(axis=1)
    # Three standard errors.
    expected = np.bincount(drawn) / 200_000
    found = dirichlet.greatest_share((0.5, 1.0, 2.0, 4.0))
    np.testing.assert_allclose(found, expected, atol=3 * 0.5 / 200_000**0.5)


def test_what_has_no_probability_is_never_drawn():
    limits = jnp.asarray(dirichlet.thresholds(np.array([0.0, 0.5, 0.0, 0.5, 0.0])))
    bits = jnp.array([0, 1, 2**31 - 1, 2**31, 2**32 - 1], jnp.uint32)
    np.testing.assert_array_equal(dirichlet.categorical(limits, bits), [1, 1, 1, 3, 3])
