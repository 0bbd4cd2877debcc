"""Confidence intervals for means over examples that come in groups.

Neighbouring slices of one slab, or the images of one patient, are not independent, so groups and
not examples are drawn with replacement: the percentile cluster bootstrap (Davison and Hinkley,
Bootstrap Methods and their Application, 1997, section 3.8). With few groups (less than about 20)
percentile intervals are somewhat too narrow.
"""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

# What computes a number of each set of groups, of how often each group is in it.
OfSets = Callable[[Float[np.ndarray, "sets g"]], Float[np.ndarray, "sets"]]

# Draws that are counted at once: few enough for the processor's caches. What is drawn is the same.
_DRAWS_PER_BLOCK = 1 << 17


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
    _check_level(level)
    values = _checked(values, groups)
    draws = Draws(groups, samples, seed)
    [[low], [high]] = draws.intervals(draws.means(values[:, None]), level)
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
    _check_level(level)
    both = np.stack([_checked(values, groups), _checked(of, groups)], axis=1)
    above, whole = both.sum(axis=0)
    if whole <= 0.0:
        return math.nan, math.nan, math.nan
    value, draws = float(above / whole), Draws(groups, samples, seed)
    if draws.size == 1:
        return value, math.nan, math.nan
    numerator, denominator = draws.means(both).T
    there = denominator > 0.0
    if (~there).mean() > (1.0 - level) / 2.0:
        return value, math.nan, math.nan
    ratios = numerator[there] / denominator[there]
    low, high = np.quantile(ratios, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return value, float(low), float(high)


class Draws:
    """Sets of groups, drawn with replacement, as many groups in each as there are: one draw for
    many numbers. `interval` of any of them draws the same sets.

    Attributes:
      index: [n], the number of each example's group, in order of appearance.
      size: the number of groups.
    """

    def __init__(self, groups: Sequence[Hashable], samples: int = 2000, seed: int = 0):
        """Draws nothing yet; the arguments are those of `interval`."""
        order: dict[Hashable, int] = {}
        self.index = np.array([order.setdefault(group, len(order)) for group in groups], np.int64)
        self.size = len(order)
        self._samples, self._seed = samples, seed

    def means(
        self,
        columns: Float[np.ndarray, "n k"],
        statistics: Sequence[OfSets] = (),
    ) -> Float[np.ndarray, "samples k+s"]:
        """The means of each drawn set, and what is computed of it as a whole.

        Args:
          columns: a number an example, k times.
          statistics: each computes a number of every set, given how often each group is in it.

        Returns:
          For each set the means of the k columns, then the statistics.
        """
        sums = np.stack(
            [np.bincount(self.index, weights=column) for column in columns.T]
            + [np.bincount(self.index)],
            axis=1,
        )
        blocks = []
        for counts in self._counts():
            totals = weighted_sums(counts, sums)
            means = totals[:, :-1] / totals[:, -1:]
            blocks.append(np.column_stack([means, *(of_sets(counts) for of_sets in statistics)]))
        return np.concatenate(blocks)

    def intervals(
        self, values: Float[np.ndarray, "samples k"], level: float
    ) -> Float[np.ndarray, "2 k"]:
        """Percentile intervals of the columns of `means`: lows, then highs; nan of one group."""
        if self.size == 1 or not values.size:
            return np.full((2, values.shape[1]), np.nan)
        _check_level(level)
        tails = [(1.0 - level) / 2.0, (1.0 + level) / 2.0]
        # A set in which a statistic has no value (mAP, and nothing to find) says nothing of it.
        if np.isnan(values).any():
            return np.nanquantile(values, tails, axis=0)
        return np.quantile(values, tails, axis=0)

    def _counts(self) -> Iterator[Float[np.ndarray, "rows g"]]:
        """How often each group is in each set, a block of sets at a time."""
        random, size = np.random.default_rng(self._seed), self.size
        rows = max(1, _DRAWS_PER_BLOCK // size)
        for start in range(0, self._samples, rows):
            count = min(rows, self._samples - start)
            drawn = random.integers(size, size=(count, size))
            drawn += size * np.arange(count)[:, None]
            flat = np.bincount(drawn.ravel(), minlength=count * size)
            yield flat.reshape(count, size).astype(np.float64)


def weighted_sums(
    counts: Float[np.ndarray, "sets g"], sums: Float[np.ndarray, "g k"]
) -> Float[np.ndarray, "sets k"]:
    """The sums over sets that hold each group some number of times, of its own sums."""
    # Not `@`: for few rows BLAS is up to ten times slower where its threads find the cores busy.
    return np.einsum("sg,kg->sk", counts, np.ascontiguousarray(sums.T))


def _check_level(level: float) -> None:
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie between 0 and 1, not be {level}")


def _checked(values: ArrayLike, groups: Sequence[Hashable]) -> Float[np.ndarray, "n"]:
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not len(values) or len(values) != len(groups):
        raise ValueError(f"values {values.shape} and {len(groups)} groups do not go together")
    if not np.isfinite(values).all():
        raise ValueError("values must be finite")
    return values
