"""Masks: how far two agree."""

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Bool, Float

from medjax.evaluation.metrics.kinds import MASK_DICE


def dice(
    made: Bool[np.ndarray, "*masks pixels"], true: Bool[np.ndarray, "*masks pixels"]
) -> Float[np.ndarray, "*masks"]:
    """Dice's coefficient of each mask: shared pixels over their mean number, in [0, 1].

    Two empty masks agree: 1. (Some packages leave them out, or give them 0; then a system gains
    nothing by rightly finding nothing.) One empty mask is 0. Source: Dice, Ecology 26, 1945.

    Raises:
      ValueError: shapes that differ.
    """
    if made.shape != true.shape:
        raise ValueError(f"masks of different shapes: {made.shape} and {true.shape}")
    shared, total = (made & true).sum(-1), made.sum(-1) + true.sum(-1)
    return np.where(total > 0, 2.0 * shared / np.maximum(total, 1), 1.0)


def facts(of_classes: Mapping[str, float], true: Iterable[str]) -> dict[str, float]:
    """What an example's `extra` says of its masks: see `kinds.MASK_DICE`.

    Args:
      of_classes: Dice of each class that the system's or the true masks show. Without any, neither
        shows anything, and the mean is 1.
      true: the classes that the true masks show. Those that the system alone shows, which lower the
        mean, have no fact of their own: so all systems have values of the same classes.
    """
    mean = float(np.mean(list(of_classes.values()))) if of_classes else 1.0
    return {MASK_DICE: mean} | {f"{MASK_DICE}/{name}": of_classes[name] for name in true}
