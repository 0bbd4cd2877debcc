"""Attention whose mask is described by integers per token, never by a T x S array."""

from medjax_kernels.attention.api import SUPPORT, attention
from medjax_kernels.attention.tokens import Tokens, allowed, up_to

__all__ = ["SUPPORT", "Tokens", "allowed", "attention", "up_to"]
