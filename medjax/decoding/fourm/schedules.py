"""How many tokens each step makes, and at what temperature.

As in apple/ml-4m, `fourm/utils/generation.py`; a test has numbers that it printed.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from medjax.errors import UserError

TOKEN_SCHEDULES = ("cosine", "linear")
COLDEST = 1e-9  # schedules end there, not at zero


def cosine_schedule(steps: int, tokens: int) -> tuple[int, ...]:
    """How many tokens each step keeps: differences of a falling half cosine, the rest at the end.

    Raises:
      UserError: fewer than one step or token.
    """
    _check_schedule(steps, tokens)
    curve = [0.5 * (1 + math.cos(math.pi * step / steps)) for step in range(steps)]
    kept: list[int] = []
    for before, after in itertools.pairwise(curve):
        # Rounding up may use up few tokens before the last step.
        kept.append(min(round(tokens * (before - after)), tokens - sum(kept)))
    return (*kept, tokens - sum(kept))


def linear_schedule(steps: int, tokens: int) -> tuple[int, ...]:
    """How many tokens each step keeps: as many as the others or one more, those first.

    Raises:
      UserError: fewer than one step or token.
    """
    _check_schedule(steps, tokens)
    steps = min(steps, tokens)
    return tuple(tokens // steps + (step < tokens % steps) for step in range(steps))


def token_schedule(name: str, steps: int, tokens: int) -> tuple[int, ...]:
    """The schedule of a name in TOKEN_SCHEDULES."""
    return (cosine_schedule if name == "cosine" else linear_schedule)(steps, tokens)


def temperatures(name: str, highest: float, tokens: Sequence[int]) -> Float[np.ndarray, "steps"]:
    """The temperature of each step.

    Args:
      name: "constant"; "linear", which falls with the tokens that are left before a step; or
        "onex:LOWEST:POWER", which falls from `highest` to LOWEST as 1 / x ** POWER does, times the
        part of the tokens that is left after a step.
      highest: the first.
      tokens: how many each step makes.

    Raises:
      UserError: another name.
    """
    lowest_power = onex(name)
    if name == "constant":
        return np.full(len(tokens), highest)
    total = sum(tokens)
    left = 1 - np.cumsum(tokens) / total
    if lowest_power is None:
        return np.maximum(highest * np.concatenate([[1.0], left[:-1]]), COLDEST)
    lowest, power = lowest_power
    # The original's curve has a point for each token, but a step takes its own number's.
    curve = 1 / np.linspace(1, 100, total) ** power
    span = curve[0] - curve[-1]
    curve = (curve - curve[-1]) / span if span > 0 else np.zeros(total)
    curve = np.pad(curve[: len(tokens)], (0, max(0, len(tokens) - total)))
    return np.maximum(lowest + (highest - lowest) * curve * left, COLDEST)


def onex(name: str) -> tuple[float, float] | None:
    """LOWEST and POWER of "onex:LOWEST:POWER", None of another temperature schedule.

    Raises:
      UserError: a name that is no temperature schedule.
    """
    if name in ("constant", "linear"):
        return None
    kind, *numbers = name.split(":")
    try:
        lowest, power = map(float, numbers)
    except ValueError:
        kind = ""
    if kind != "onex" or not (0 <= lowest < math.inf and 0 < power < math.inf):
        raise UserError(
            f"temperature schedule {name!r} is none of constant, linear, onex:LOWEST:POWER, such "
            "as onex:0.01:0.5"
        )
    return lowest, power


def _check_schedule(steps: int, tokens: int) -> None:
    if steps < 1 or tokens < 1:
        raise UserError(f"a schedule of {steps} steps for {tokens} tokens: both must be at least 1")
