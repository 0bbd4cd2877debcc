"""Limits: on a clock that is turned by hand."""

import threading

import numpy as np
import pytest

from medjax.data.medical.llm.limits import Budget, BudgetSpent, PerMinute, Prices


class Clock:
    """Waiting turns it."""

    def __init__(self):
        self.now = 1000.0

    def pause(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds

    def limit(self, most: float) -> PerMinute:
        return PerMinute(most, clock=lambda: self.now, pause=self.pause)


@pytest.mark.parametrize("amounts", [[1] * 40, [3, 1, 4, 1, 5, 2, 5, 3, 5] * 5])
def test_no_minute_has_more(amounts):
    clock = Clock()
    limit = clock.limit(10)
    times = []
    for amount in amounts:
        limit.take(amount)
        times.append(clock.now)
        clock.now += 0.7
    times, amounts = np.array(times), np.array(amounts)
    for start in times:
        assert amounts[(start <= times) & (times < start + 60)].sum() <= 10
    # Nor does it wait longer than it must: the last took its turn as soon as there was room.
    assert times[-1] - times[0] <= 60 * np.ceil(amounts.sum() / (10 - amounts.max() + 1))


def test_the_shortest_wait():
    clock = Clock()
    limit = clock.limit(10)
    limit.take(4)
    clock.now += 20
    limit.take(6)
    limit.take(4)
    assert clock.now == 1060  # the first four are over, the six are not
    limit.take(1)
    assert clock.now == 1080


def test_more_than_the_limit_is_taken_alone():
    clock = Clock()
    limit = clock.limit(10)
    limit.take(50)
    assert clock.now == 1000
    limit.take(1)
    limit.take(50)
    assert clock.now == 1120


def test_what_was_really_used_counts():
    clock = Clock()
    limit = clock.limit(10)
    limit.take(10).amount = 2
    limit.take(8)
    assert clock.now == 1000


def test_no_limit():
    clock = Clock()
    limit = clock.limit(0)
    for _ in range(5):
        limit.take(1e9)
    assert clock.now == 1000


def test_a_stop_ends_the_waiting():
    stop = threading.Event()
    stop.set()
    limit = PerMinute(1, pause=stop.wait)
    limit.take(1)
    limit.take(1)  # would wait a minute


def test_budget():
    budget = Budget(10)
    one, two = budget.reserve(6), budget.reserve(4)
    budget.settle(one, 1)
    budget.settle(two, 4)
    three = budget.reserve(5)
    budget.settle(three, 5)
    with pytest.raises(BudgetSpent):
        budget.reserve(0.1)


def test_a_budget_waits_for_what_is_set_aside():
    budget = Budget(10)
    one = budget.reserve(6)
    got = []
    waiting = threading.Thread(target=lambda: got.append(budget.reserve(6)))
    waiting.start()
    waiting.join(0.05)
    assert not got
    budget.settle(one, 4)
    waiting.join(10)
    assert got[0].amount == 6


def test_prices_are_of_a_million():
    assert Prices(2, 10).cost(500_000, 100_000) == 2
