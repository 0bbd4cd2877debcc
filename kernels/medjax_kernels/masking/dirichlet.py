"""Dirichlet shares in integers, so that budgets are the same to the last token on every device.

Logarithms and divisions in float differ in their last bit between devices, and even between batch
sizes; a `floor` makes a whole token of it. Here the quantiles of the gamma distribution come from
a table made on the host, and what follows is exact integer arithmetic.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt
from scipy import special

# log2 of a gamma variate, in units of 2**-16.
_UNIT = 16
# Knots of the quantile function: 64 in each of 32 octaves of the probability, and its half.
_OCTAVES, _STEPS = 32, 64


@functools.cache
def log2_gamma_table(alpha: float) -> np.ndarray:
    """log2 of Gamma(alpha)'s quantiles, int32 [2, 2049]: at probability u, and at 1 - u.

    u grows from 2**-33 to 1/2. Between the knots it is taken as linear, and is off by 1e-4 at most,
    or by 1e-4 / alpha if alpha < 1.
    """
    octave = 2.0 ** np.arange(-_OCTAVES - 1, -1)
    u = np.append((octave[:, None] * (1 + np.arange(_STEPS) / _STEPS)).ravel(), 0.5)
    quantiles = np.stack([special.gammaincinv(alpha, u), special.gammainccinv(alpha, u)])
    # Too small for a float64: there the distribution is x**alpha / Gamma(alpha + 1).
    share = np.stack([u, 1 - u])
    small = (np.log2(share) + special.gammaln(alpha + 1) / np.log(2)) / alpha
    with np.errstate(divide="ignore"):
        logs = np.where(quantiles > 1e-250, np.log2(quantiles), small)
    limit = 2.0 ** (31 - _UNIT) - 1
    return np.round(np.clip(logs, -limit, limit) * 2**_UNIT).astype(np.int32)


def log2_gamma(table: Int[Array, "A 2 K"], row: Int[Array, "M"], bits: UInt[Array, "M"]) -> Array:
    """log2 of gamma variates in units of 2**-16, int32 [M]; `row`: which of the tables."""
    tail = (bits >> 31).astype(jnp.int32)
    odd = (bits << 1) | 1  # u = odd / 2**33
    zeros = jax.lax.clz(odd)
    digits = odd << zeros
    step = (digits >> 25) & (_STEPS - 1)
    knot = ((_OCTAVES - 1 - zeros) * _STEPS + step).astype(jnp.int32)
    between = ((digits >> 15) & 1023).astype(jnp.int32)
    low, high = table[row, tail, knot], table[row, tail, knot + 1]
    return low + ((high - low) * between >> 10)


def _exp2_table(bits: int) -> np.ndarray:
    """2**bits, falling to its half in 1024 steps."""
    return np.round(2.0 ** (bits - np.arange(1025) / 1024)).astype(np.int32)


def shares(
    logs: Int[Array, "M"], possible: Array, total: Int[Array, ""], greatest: int
) -> Int[Array, "M"]:
    """floor(total * gamma / sum of gammas), without rounding.

    Args:
      logs: as `log2_gamma` gives them.
      possible: bool [M]; the others get nothing.
      total: what is shared.
      greatest: bound of `total`, on which the precision depends.
    """
    bits = min(20, 31 - int(greatest).bit_length())
    table = jnp.asarray(_exp2_table(bits))
    top = jnp.max(jnp.where(possible, logs, jnp.iinfo(jnp.int32).min))
    below = (top - logs).astype(jnp.uint32)  # may pass 2**31, hence unsigned
    index, rest = (below >> 6 & 1023).astype(jnp.int32), (below & 63).astype(jnp.int32)
    value = table[index] - ((table[index] - table[index + 1]) * rest >> 6)
    weights = value >> jnp.minimum(below >> _UNIT, 31).astype(jnp.int32)
    weights = jnp.where(possible, weights, 0).astype(jnp.uint32)
    return (total.astype(jnp.uint32) * weights // jnp.sum(weights)).astype(jnp.int32)


def greatest_share(alphas: tuple[float, ...]) -> np.ndarray:
    """The probability that each share of a Dirichlet is the greatest, float64 [M].

    The integral over x of gamma density m times the other gammas' distributions, substituted so
    that the trapezoid rule converges at once: x is the quantile of 1 / (1 + exp(-t)).
    """
    taken = [i for i, alpha in enumerate(alphas) if alpha > 0]
    t = np.linspace(-45.0, 45.0, 3001)
    u, rest = special.expit(t), special.expit(-t)
    result = np.zeros(len(alphas))
    for i in taken:
        logs = _log_quantile(alphas[i], u, rest)
        others = [_distribution(alphas[j], logs) for j in taken if j != i]
        result[i] = np.sum(np.prod(others, axis=0) * u * rest) if others else 1.0
    return result / result.sum()


def _log_quantile(alpha: float, u: np.ndarray, rest: np.ndarray) -> np.ndarray:
    low, high = special.gammaincinv(alpha, u), special.gammainccinv(alpha, rest)
    quantile = np.where(u < 0.5, low, high)
    small = (np.log(u) + special.gammaln(alpha + 1)) / alpha
    with np.errstate(divide="ignore"):
        return np.where(quantile > 1e-250, np.log(quantile), small)


def _distribution(alpha: float, logs: np.ndarray) -> np.ndarray:
    small = np.exp(np.minimum(alpha * logs - special.gammaln(alpha + 1), 0.0))
    with np.errstate(under="ignore"):
        return np.where(logs < -500, small, special.gammainc(alpha, np.exp(np.maximum(logs, -500))))


def thresholds(probabilities: np.ndarray) -> np.ndarray:
    """Cumulative probabilities in units of 2**-31, for `categorical`: uint32, like the input."""
    cumulative = np.cumsum(probabilities, axis=-1)
    scaled = np.round(cumulative / cumulative[..., -1:] * 2**31)
    return scaled.astype(np.uint32)


def categorical(limits: UInt[Array, "... M"], bits: UInt[Array, "..."]) -> Int[Array, "..."]:
    """An index drawn by `thresholds`; what has probability zero is never drawn."""
    return jnp.sum((bits >> 1)[..., None] >= limits, axis=-1, dtype=jnp.int32)
