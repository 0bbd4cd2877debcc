"""The numbers that codes stand for: 16 for a weight, 256 for a block's largest weight."""

import numpy as np

# NormalFloat4 as QLoRA published it (arXiv:2305.14314, appendix E): quantiles of a normal
# distribution, scaled to [-1, 1], with an exact zero. Given as the doubles of these float32s.
LEVELS = np.array(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ],
    np.float32,
)
ZERO = 7  # the code of 0.0


def thresholds(levels: np.ndarray) -> np.ndarray:
    """Between which numbers a level is the nearest: level i above threshold i - 1, up to i."""
    return (levels[:-1] + levels[1:]) / np.float32(2)


def _dynamic_map() -> np.ndarray:
    """The signed dynamic 8-bit type (Dettmers, arXiv:1511.04561), as bitsandbytes has it.

    Seven decades; the i-th has 2^i numbers, the middles of equal parts of [0.1, 1] x 10^(i-6), with
    either sign; and 0 and 1. To the last bit what bitsandbytes' `create_dynamic_map` gives on CPUs
    with fused multiply-add (all with AVX2); others differ by two units in the last place at most.
    """
    low, values = np.float32(0.1), [np.array([0, 1], np.float32)]
    for i in range(7):
        parts, index = 2**i, np.arange(2**i + 1)
        step = np.float64((1 - low) / np.float32(parts))
        # From both ends to the middle, and rounded once, as torch.linspace counts.
        edges = np.where(index <= parts // 2, low + step * index, 1 - step * (parts - index))
        middles = thresholds(edges.astype(np.float32))
        positive = np.float32(10.0 ** (i - 6)) * middles
        values += [positive, -positive]
    return np.sort(np.concatenate(values))


DYNAMIC = _dynamic_map()
