"""Attention whose mask is described by integers per token, never by a T x S array."""

from medjax_kernels.attention.api import IMPLEMENTATIONS, attention
from medjax_kernels.attention.tokens import Tokens, allowed

__all__ = ["IMPLEMENTATIONS", "Tokens", "allowed", "attention"]
