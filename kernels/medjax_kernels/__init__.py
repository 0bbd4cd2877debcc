"""Fused operations for transformers in JAX: attention, and the cross entropy of a large vocabulary.

Each operation is one folder: `api.py` holds the function that users call, the other files one
implementation each. The package stands on its own: it never imports medjax.
"""

from medjax_kernels.attention import Tokens, attention
from medjax_kernels.cross_entropy import TokenScores, cross_entropy
from medjax_kernels.selection import assume, use

__all__ = ["TokenScores", "Tokens", "assume", "attention", "cross_entropy", "use"]
