"""Sizes of the kernels' blocks, by what a GPU has of registers and shared memory."""

from typing import NamedTuple

import jax.numpy as jnp

from medjax_kernels import selection


class Blocks(NamedTuple):
    """What one program of a kernel computes, and with what.

    Attributes:
      tokens, words, width: sizes of its blocks, powers of two of at least 16.
      warps: of 32 threads, that share the work.
      stages: of its loop that are in flight at a time.
    """

    tokens: int
    words: int
    width: int
    warps: int
    stages: int


class Sizes(NamedTuple):
    """The blocks of the three products.

    Attributes:
      logits: tokens x words, summed over blocks of the width; also for the logits' gradient.
      pull: tokens x width, summed over blocks of words, which divide those of `logits`.
      table: words x width, summed over blocks of tokens, which divide those of `logits`.
      words: most words in a chunk; None for what the budget allows.
    """

    logits: Blocks
    pull: Blocks
    table: Blocks
    words: int | None = None


# 16-bit operands. Not measured on a GPU: chosen so that nothing spills out of registers and two
# programs (one, where the blocks are large) fit a multiprocessor.
_AMPERE = Sizes(
    logits=Blocks(128, 128, 32, warps=8, stages=4),
    pull=Blocks(64, 64, 128, warps=4, stages=3),
    table=Blocks(64, 128, 128, warps=8, stages=3),
)
_HOPPER = Sizes(
    logits=Blocks(128, 128, 64, warps=8, stages=4),
    pull=Blocks(64, 64, 128, warps=4, stages=4),
    table=Blocks(64, 128, 128, warps=8, stages=4),
)
# float32 operands are twice as large, and multiplied without tensor cores.
_FLOAT32 = Sizes(
    logits=Blocks(64, 64, 32, warps=8, stages=2),
    pull=Blocks(64, 32, 64, warps=8, stages=2),
    table=Blocks(32, 64, 64, warps=8, stages=2),
)


def sizes(dtype) -> Sizes:
    """For operands of this dtype on the device at hand."""
    if jnp.dtype(dtype).itemsize > 2:
        return _FLOAT32
    capability = selection.device().capability or (8, 0)
    return _HOPPER if capability[0] == 9 else _AMPERE
