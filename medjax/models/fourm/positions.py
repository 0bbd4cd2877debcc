"""Fixed positions: sines and cosines of geometrically spaced wavelengths (arXiv:1706.03762).

As in apple/ml-4m, `fourm/models/fm_utils.py`: a sequence's from its index, an image's in one half
from the row and in the other from the column. Float32 throughout, as there.
"""

import numpy as np

from medjax.modalities.table import Modality

# The original keeps as many positions of every sequence, however short.
SEQUENCE_ROWS = 512


def sincos(index: np.ndarray, width: int) -> np.ndarray:
    """Sines, then cosines of `index` in wavelengths from 2 pi to 20,000 pi, [n, width]."""
    half = width // 2
    exponents = np.arange(half, dtype=np.float32) / np.float32(half)
    angles = index.astype(np.float32)[:, None] / np.float32(10_000.0) ** exponents
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def fixed_positions(modality: Modality, width: int) -> np.ndarray:
    """The position embeddings of a modality, float32 [rows, width].

    An image has a row for each token of its grid, row by row; a sequence at least SEQUENCE_ROWS.
    """
    if not modality.is_image:
        return sincos(np.arange(max(SEQUENCE_ROWS, modality.length)), width)
    row, column = np.divmod(np.arange(modality.length), modality.side)
    return np.concatenate([sincos(row, width // 2), sincos(column, width // 2)], axis=1)
