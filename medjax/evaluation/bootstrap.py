"""Confidence intervals for means over examples that come in groups.

Neighbouring slices of one slab, or the images of one patient, are not independent, so groups and
not examples are drawn with replacement: the percentile cluster bootstrap (Davison and Hinkley,
Bootstrap Methods and their Application, 1997, section 3.8). With few groups (less than about 20)
percentile intervals are somewhat too narrow.
"""

import math
from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

# Draws held in memory at once; part of what makes an interval reproducible.
_DRAWS_PER_BLOCK = 1 << 20


def interval(
    values: ArrayLike,
    groups: Sequence[Hashable],
    level: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval for the mean of `values`.

    Args:
      values: [n] finite numbers, one an example.
      groups: [n], the group that each example belongs to.
      level: probability that the interval is meant to cover, in (0, 1).
      samples: number of bootstrap samples; each draws as many groups as there are.
      seed: equal arguments and seeds give equal intervals.

    Returns:
      (low, high) in the unit of `values`; (nan, nan) where there is only one group, which says
      nothing of how groups differ.

    Raises:
      ValueError: `values` is empty, not finite, or not as long as `groups`; a level outside (0, 1).
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie between 0 and 1, not be {level}")
    sums, counts = _totals(values, groups)
    if len(sums) == 1:
        return math.nan, math.nan
    means = _resampled_means(sums, counts, samples, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


def paired_difference(
    values: ArrayLike,
    against: ArrayLike,
    groups: Sequence[Hashable],
    level: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Mean of `values - against` and its interval, for two systems on the same examples.

    Both systems meet each sample of groups together, so what is hard for both cancels.

    Returns:
      (difference, low, high); the arguments and errors are those of `interval`.
    """
    values, against = np.asarray(values, np.float64), np.asarray(against, np.float64)
    if values.shape != against.shape:
        raise ValueError(f"two systems of different sizes: {values.shape} and {against.shape}")
    difference = values - against
    low, high = interval(difference, groups, level, samples, seed)
    return float(difference.mean()), low, high


def ratio(
    values: ArrayLike,
    of: ArrayLike,
    groups: Sequence[Hashable],
    level: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Mean of `values` over the mean of `of`, of the same examples, and its interval.

    Both means are of the same sample of groups each time, and then divided.

    Returns:
      (ratio, low, high). All are nan where the mean of `of` is not above 0, and the ends also where
      there is only one group, or where that happens in so many samples that the interval would have
      to count them; in fewer, they are left out. Arguments and errors are those of `interval`.
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie between 0 and 1, not be {level}")
    above, below = _totals(values, groups), _totals(of, groups)
    if (whole := below[0].sum()) <= 0.0:
        return math.nan, math.nan, math.nan
    value = float(above[0].sum() / whole)
    if len(below[0]) == 1:
        return value, math.nan, math.nan
    # Generators of the same seed draw the same groups.
    numerator, denominator = (
        _resampled_means(*totals, samples, np.random.default_rng(seed)) for totals in (above, below)
    )
    there = denominator > 0.0
    if (~there).mean() > (1.0 - level) / 2.0:
        return value, math.nan, math.nan
    ratios = numerator[there] / denominator[there]
    low, high = np.quantile(ratios, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return value, float(low), float(high)


def _totals(
    values: ArrayLike, groups: Sequence[Hashable]
) -> tuple[Float[np.ndarray, "g"], Int[np.ndarray, "g"]]:
    """Sum and number of the values of each group, groups in order of appearance."""
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not len(values) or len(values) != len(groups):
        raise ValueError(f"values {values.shape} and {len(groups)} groups do not go together")
    if not np.isfinite(values).all():
        raise ValueError("values must be finite")
    order: dict[Hashable, int] = {}
    index = np.array([order.setdefault(group, len(order)) for group in groups])
    return np.bincount(index, weights=values), np.bincount(index)


def _resampled_means(
    sums: Float[np.ndarray, "g"],
    counts: Int[np.ndarray, "g"],
    samples: int,
    random: np.random.Generator,
) -> Float[np.ndarray, "samples"]:
    """Mean over the examples of each sample of groups."""
    size = len(sums)
    rows = max(1, _DRAWS_PER_BLOCK // size)
    means = []
    for start in range(0, samples, rows):
        drawn = random.integers(size, size=(min(rows, samples - start), size))
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    return np.concatenate(means)
