"""Masks: how far two agree."""

import numpy as np
from jaxtyping import Bool, Float


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
