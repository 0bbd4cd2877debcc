"""Schedules of tokens and temperatures, against numbers from the original's formulas.

The original is apple/ml-4m, fourm/utils/generation.py.
"""

import numpy as np
import pytest

from medjax.decoding.fourm.schedules import cosine_schedule, linear_schedule, temperatures
from medjax.errors import UserError


def test_schedules():
    # 1, cos^2(pi / 8), 1/2 and sin^2(pi / 8) of 196 are left: 196, 167.3, 98, 28.7.
    assert cosine_schedule(4, 196) == (29, 69, 69, 29)
    assert cosine_schedule(1, 9) == (9,)
    assert linear_schedule(4, 10) == (3, 3, 2, 2)
    assert linear_schedule(20, 3) == (1, 1, 1)
    for steps in range(1, 40):
        for tokens in (1, 2, 5, 9, 196):
            for schedule in (cosine_schedule(steps, tokens), linear_schedule(steps, tokens)):
                assert sum(schedule) == tokens
                assert min(schedule) >= 0
    for schedule in (cosine_schedule, linear_schedule):
        with pytest.raises(UserError, match="0 steps for 9 tokens"):
            schedule(0, 9)


def test_constant_and_linear_temperature():
    np.testing.assert_array_equal(temperatures("constant", 2.5, (3, 4)), [2.5, 2.5])
    # What is left before each step: 10, 9, 6 and 3 of 10.
    np.testing.assert_allclose(temperatures("linear", 2.0, (1, 3, 3, 3)), [2.0, 1.8, 1.2, 0.6])
    assert temperatures("linear", 0.0, (5, 5))[1] == 1e-9


def test_onex_temperature():
    # At x = 1, 34, 67 and 100, 1 / x scaled to [0, 1]: 1, 2 / 102, 33 / 6633 and 0; what is left
    # after each step: 3/4, 1/2, 1/4 and 0.
    found = temperatures("onex:0.5:1", 2.0, (1, 1, 1, 1))
    curve = np.array([1, 66 / 34 / 99, 33 / 67 / 99, 0])
    np.testing.assert_allclose(found, 0.5 + 1.5 * curve * [0.75, 0.5, 0.25, 0])
    # A curve has a point for each of its ten tokens, of which three steps take the first three.
    x = 1 + 11 * np.arange(10.0)
    curve = (1 / np.sqrt(x) - 0.1) / 0.9
    found = temperatures("onex:0.01:0.5", 3.0, (2, 3, 5))
    np.testing.assert_allclose(found, 0.01 + 2.99 * curve[:3] * [0.8, 0.5, 0])
    # More steps than tokens, and one token.
    np.testing.assert_allclose(temperatures("onex:0.2:1", 1.0, (1, 0, 1))[2], 0.2)
    np.testing.assert_allclose(temperatures("onex:0.2:1", 1.0, (1,)), [0.2])


@pytest.mark.parametrize(
    "name", ["warm", "onex", "onex:1", "onex:a:1", "onex:0.1:0.5:2", "onex:-1:1", "linear:1:2"]
)
def test_no_temperature_schedule(name):
    with pytest.raises(UserError, match=f"temperature schedule '{name}' is none of constant"):
        temperatures(name, 1.0, (1, 2))
