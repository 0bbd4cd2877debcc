"""Fused operations for transformers in JAX, with the same memory behaviour on every device.

Each operation is one folder: `api.py` holds the function that users call, the other files one
implementation each. The package stands on its own: it never imports medjax.
"""

from medjax_kernels import nf4
from medjax_kernels.attention import Tokens, attention
from medjax_kernels.cross_entropy import TokenScores, cross_entropy
from medjax_kernels.masking import MaskingScheme, Modality, masking
from medjax_kernels.selection import assume, use

__all__ = [
    "MaskingScheme",
    "Modality",
    "TokenScores",
    "Tokens",
    "assume",
    "attention",
    "cross_entropy",
    "masking",
    "nf4",
    "use",
]
