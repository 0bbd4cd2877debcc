"""Intensities of any range to the 256 greys that are looked at."""

import numpy as np
from jaxtyping import Num, UInt8


def to_uint8(
    values: Num[np.ndarray, "*shape"], window: tuple[float, float]
) -> UInt8[np.ndarray, "*shape"]:
    """Maps a window's low end to 0 and its high end to 255, linearly, rounding to the nearest.

    What lies outside is clipped; NaN is black; a window without width shows what is above it white.
    """
    low, high = window
    values = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
    if high <= low:
        return np.where(values > low, 255, 0).astype(np.uint8)
    return np.rint(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def full_range(values: Num[np.ndarray, "*shape"]) -> tuple[float, float]:
    """The window from the smallest to the largest finite value; (0, 0) if there is none."""
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
