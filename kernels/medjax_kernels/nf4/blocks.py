"""Sizes of the fused kernels' tiles, by GPU. First guesses: nobody has measured them yet."""

from typing import NamedTuple


class Blocks(NamedTuple):
    """Of one kernel.

    Attributes:
      rows: of x (or of the result's gradient) that a program takes; a power of two, 16 or more.
      outputs: columns of W that a program takes forward, or takes at a time backward.
      warps: of 32 threads each.
      stages: how many tiles are loaded ahead, and one.
    """

    rows: int
    outputs: int
    warps: int
    stages: int


# By least compute capability; of each, the first that has enough rows, or the last. A single row is
# bound by how fast codes are read: narrow tiles make more programs, which read at once.
_FORWARD = {
    (8, 0): (Blocks(16, 32, 4, 4), Blocks(64, 64, 4, 3), Blocks(128, 128, 8, 3)),
    (9, 0): (Blocks(16, 32, 4, 4), Blocks(64, 64, 4, 4), Blocks(128, 128, 8, 4)),
}
_BACKWARD = {
    (8, 0): (Blocks(16, 64, 4, 4), Blocks(64, 64, 4, 3), Blocks(128, 64, 8, 3)),
    (9, 0): (Blocks(16, 64, 4, 4), Blocks(64, 64, 4, 4), Blocks(128, 64, 8, 4)),
}
_MOST_BYTES = 256  # of a column of x's tile: more would fill the shared memory of smaller GPUs


def forward(capability: tuple[int, int] | None, rows: int, itemsize: int) -> Blocks:
    """For `rows` of x; a device without capability (the CPU, interpreting) is taken for the least.

    Args:
      itemsize: bytes of a number of x.
    """
    return _pick(_FORWARD, capability, rows, itemsize)


def backward(capability: tuple[int, int] | None, rows: int, itemsize: int) -> Blocks:
    """For `rows` of the result's gradient, likewise."""
    return _pick(_BACKWARD, capability, rows, itemsize)


def _pick(table, capability, rows: int, itemsize: int) -> Blocks:
    known = [least for least in table if capability is not None and least <= capability]
    choices = table[max(known, default=min(table))]
    choices = [blocks for blocks in choices if blocks.rows * itemsize <= _MOST_BYTES]
    return next((blocks for blocks in choices if blocks.rows >= rows), choices[-1])
