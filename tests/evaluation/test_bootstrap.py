import math

import numpy as np
import pytest

from medjax.evaluation import bootstrap


def test_equals_a_plain_loop():
    values = np.array([0.0, 1.0, 1.0, 0.5, 0.25, 1.0, 0.0])
    groups = ["b", "a", "b", "c", "c", "c", "a"]
    names = ["b", "a", "c"]  # in order of appearance
    random = np.random.default_rng(7)
    means = []
    for drawn in random.integers(3, size=(500, 3)):
        sample = []
        for i in drawn:
            sample += [v for v, g in zip(values, groups, strict=True) if g == names[i]]
        means.append(sum(sample) / len(sample))
    low, high = bootstrap.interval(values, groups, level=0.9, samples=500, seed=7)
    assert low == pytest.approx(np.percentile(means, 5))
    assert high == pytest.approx(np.percentile(means, 95))


def test_blocks_are_the_same_bootstrap(monkeypatch):
    random = np.random.default_rng(0)
    values, groups = random.random(200), list(np.arange(200) // 4)
    whole = bootstrap.interval(values, groups, samples=4000)
    monkeypatch.setattr(bootstrap, "_DRAWS_PER_BLOCK", 1000)  # 20 samples a block
    np.testing.assert_allclose(bootstrap.interval(values, groups, samples=4000), whole, rtol=1e-12)


def test_covers_the_mean_of_clustered_data():
    """95 % intervals cover about that often over groups, and far less if groups are ignored."""
    random = np.random.default_rng(1)
    groups = np.repeat(np.arange(40), 8)
    by_group = by_value = 0
    trials = 200
    for trial in range(trials):
        values = random.normal(size=40)[groups] + 0.5 * random.normal(size=320)
        for unit, name in ((groups, "group"), (np.arange(320), "value")):
            low, high = bootstrap.interval(values, list(unit), samples=300, seed=trial)
            if name == "group":
                by_group += low <= 0.0 <= high
            else:
                by_value += low <= 0.0 <= high
    assert 0.89 <= by_group / trials <= 0.985
    assert by_value / trials < 0.7


def test_is_deterministic_and_depends_on_the_seed():
    values, groups = np.random.default_rng(0).random(30), list(np.arange(30) // 3)
    assert bootstrap.interval(values, groups) == bootstrap.interval(values, groups)
    assert bootstrap.interval(values, groups) != bootstrap.interval(values, groups, seed=1)


def test_equal_values_have_a_point_and_one_group_has_no_interval():
    assert bootstrap.interval([0.5, 0.5, 0.5], ["a", "b", "b"]) == (0.5, 0.5)
    assert all(map(math.isnan, bootstrap.interval([0.0, 1.0], ["a", "a"])))


def test_pairing_cancels_what_systems_share():
    random = np.random.default_rng(3)
    groups = np.repeat(np.arange(20), 5)
    difficulty = random.normal(size=20)[groups]
    difference, low, high = bootstrap.paired_difference(difficulty + 0.1, difficulty, list(groups))
    assert difference == pytest.approx(0.1)
    assert (low, high) == pytest.approx((0.1, 0.1))
    unpaired = bootstrap.interval(difficulty + 0.1, list(groups))
    assert unpaired[1] - unpaired[0] > 0.5


@pytest.mark.parametrize(
    ("values", "groups", "level"),
    [([], [], 0.95), ([1.0], [], 0.95), ([math.nan, 1.0], ["a", "b"], 0.95), ([1.0], ["a"], 95)],
)
def test_refuses_what_has_no_interval(values, groups, level):
    with pytest.raises(ValueError, match=r"values|level"):
        bootstrap.interval(values, groups, level)


def test_refuses_systems_of_different_sizes():
    with pytest.raises(ValueError, match="different sizes"):
        bootstrap.paired_difference([1.0], [1.0, 0.0], ["a", "b"])


def test_ratio_equals_a_plain_loop():
    above = np.array([0.0, 1.0, 1.0, 0.5, 0.0, 1.0, 0.0])
    below = np.array([1.0, 1.0, 0.5, 0.5, 0.25, 1.0, 1.0])
    groups = ["b", "a", "b", "c", "c", "c", "a"]
    names = ["b", "a", "c"]
    random, ratios = np.random.default_rng(7), []
    for drawn in random.integers(3, size=(500, 3)):
        chosen = [j for i in drawn for j in range(7) if groups[j] == names[i]]
        ratios.append(above[chosen].mean() / below[chosen].mean())
    value, low, high = bootstrap.ratio(above, below, groups, level=0.9, samples=500, seed=7)
    assert value == pytest.approx(above.mean() / below.mean())
    assert (low, high) == (
        pytest.approx(np.percentile(ratios, 5)), pytest.approx(np.percentile(ratios, 95)),
    )  # fmt: skip


def test_ratio_where_there_is_none():
    assert all(map(math.isnan, bootstrap.ratio([1, 1], [0, 0], "ab")))
    assert all(map(math.isnan, bootstrap.ratio([1, 1], [1, -2], "ab")))
    value, *ends = bootstrap.ratio([1, 1], [2, 2], "aa")
    assert value == 0.5
    assert all(map(math.isnan, ends))
    # With two groups, a quarter of the samples has the one of the zero alone: no interval.
    value, *ends = bootstrap.ratio([0, 1], [0, 2], "ab")
    assert value == 0.5
    assert all(map(math.isnan, ends))
    # Of eleven, hardly any has: those are left out.
    value, *ends = bootstrap.ratio([1] * 4 + [0] * 7, [2] * 4 + [0] * 7, list(range(11)))
    assert ends == [0.5, 0.5]


def test_many_columns_have_the_intervals_that_each_has_alone():
    random = np.random.default_rng(4)
    columns, groups = random.random((90, 5)), list(np.arange(90) % 13)
    draws = bootstrap.Draws(groups, samples=500, seed=3)
    lows, highs = draws.intervals(draws.means(columns), 0.9)
    for column, low, high in zip(columns.T, lows, highs, strict=True):
        assert bootstrap.interval(column, groups, 0.9, 500, 3) == pytest.approx((low, high))


def test_statistics_meet_the_sets_that_columns_meet():
    values, groups = np.random.default_rng(5).random(40), list(np.arange(40) // 3)
    draws = bootstrap.Draws(groups, samples=300)
    sums = np.bincount(draws.index, weights=values)[:, None]
    sizes = np.bincount(draws.index).astype(float)[:, None]

    def mean(counts):
        of_sets = bootstrap.weighted_sums(counts, np.hstack([sums, sizes]))
        return of_sets[:, 0] / of_sets[:, 1]

    drawn = draws.means(values[:, None], [mean])
    assert drawn.shape == (300, 2)
    np.testing.assert_allclose(drawn[:, 0], drawn[:, 1])
    # Sets in which a statistic has no value are left out of its interval.
    drawn[::3, 1] = np.nan
    lows, highs = draws.intervals(drawn, 0.95)
    expected = np.quantile(drawn[np.isfinite(drawn[:, 1]), 1], [0.025, 0.975])
    assert (lows[1], highs[1]) == pytest.approx(tuple(expected))
