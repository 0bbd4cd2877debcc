"""Softmax cross entropy of a linear layer over a large vocabulary, without its logits."""

from medjax_kernels.cross_entropy.api import SUPPORT, TokenScores, cross_entropy

__all__ = ["SUPPORT", "TokenScores", "cross_entropy"]
