"""Softmax cross entropy of a linear layer over a large vocabulary, without its logits."""

from medjax_kernels.cross_entropy.api import IMPLEMENTATIONS, TokenScores, cross_entropy

__all__ = ["IMPLEMENTATIONS", "TokenScores", "cross_entropy"]
