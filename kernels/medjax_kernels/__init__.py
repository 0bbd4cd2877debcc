"""Fused operations for transformers in JAX: attention, cross entropy, products with 4-bit matrices.

Each operation is one folder: `api.py` holds the function that users call, the other files one
implementation each. The package stands on its own: it never imports medjax.
"""

from medjax_kernels import nf4
from medjax_kernels.attention import Tokens, attention
from medjax_kernels.cross_entropy import TokenScores, cross_entropy
from medjax_kernels.selection import assume, use

__all__ = ["TokenScores", "Tokens", "assume", "attention", "cross_entropy", "nf4", "use"]
