"""How large the tiles of attention's kernels are, by GPU, head width and dtype.

The numbers are what compiles without spilling registers and within a block's shared memory, and of
that the largest tiles; `tools/tune_attention.py --gpu a100` prints both. No GPU has timed them
yet: the same tool does so where there is one, and prints the lines to put here.
"""

from typing import NamedTuple

import jax.numpy as jnp

from medjax_kernels.attention.parts import padded
from medjax_kernels.selection import Device


class TileSize(NamedTuple):
    """One program's tile.

    Attributes:
      queries, keys: powers of two of 16 and up, the least that tensor cores multiply.
      num_warps: of 32 threads each.
      num_stages: tiles that are loaded ahead.
    """

    queries: int
    keys: int
    num_warps: int
    num_stages: int


# The longest queries (of all heads of a group) that are one tile, whose keys are split.
FEW_QUERIES = 32
# Programs that keep the largest GPUs busy, and the least number of tiles worth a program.
_PROGRAMS, _TILES_A_PROGRAM = 256, 2

KERNELS = ("forward", "few_queries", "d_q", "d_kv")
# {(compute capability, bytes of the dtype): {padded head width: tiles in the order of KERNELS}}.
# 8.6 stands for all GPUs with 99 KiB of shared memory a block (8.6, 8.9, 12.0).
TABLE: dict[tuple[tuple[int, int], int], dict[int, tuple[TileSize, ...]]] = {
    ((8, 0), 2): {
        64: (
            TileSize(128, 64, 4, 3), TileSize(32, 64, 4, 2),
            TileSize(128, 64, 8, 2), TileSize(64, 128, 8, 2),
        ),
        80: (
            TileSize(128, 64, 8, 3), TileSize(32, 64, 4, 2),
            TileSize(128, 64, 8, 2), TileSize(64, 64, 8, 2),
        ),
        128: (
            TileSize(128, 64, 8, 3), TileSize(32, 64, 4, 2),
            TileSize(64, 64, 8, 2), TileSize(64, 64, 8, 2),
        ),
        256: (
            TileSize(64, 64, 8, 2), TileSize(32, 64, 4, 2),
            TileSize(64, 64, 8, 2), TileSize(64, 64, 8, 2),
        ),
    },
    ((8, 6), 2): {
        64: (
            TileSize(128, 64, 4, 3), TileSize(32, 64, 4, 2),
            TileSize(128, 64, 8, 2), TileSize(64, 128, 8, 2),
        ),
        80: (
            TileSize(128, 64, 8, 3), TileSize(32, 64, 4, 2),
            TileSize(128, 64, 8, 2), TileSize(64, 64, 8, 2),
        ),
        128: (
            TileSize(128, 64, 8, 2), TileSize(32, 64, 4, 2),
            TileSize(64, 64, 8, 2), TileSize(64, 64, 8, 2),
        ),
        256: (
            TileSize(64, 32, 8, 2), TileSize(32, 32, 4, 2),
            TileSize(32, 32, 4, 2), TileSize(32, 32, 8, 2),
        ),
    },
    ((9, 0), 2): {
        64: (
            TileSize(128, 128, 8, 2), TileSize(32, 64, 4, 2),
            TileSize(128, 64, 8, 2), TileSize(64, 128, 8, 2),
        ),
        80: (
            TileSize(128, 128, 8, 2), TileSize(32, 64, 4, 2),
            TileSize(128, 64, 8, 2), TileSize(64, 128, 8, 2),
        ),
        128: (
            TileSize(128, 128, 8, 2), TileSize(32, 64, 4, 2),
            TileSize(128, 64, 8, 2), TileSize(64, 64, 8, 2),
        ),
        256: (
            TileSize(128, 64, 8, 2), TileSize(32, 64, 4, 2),
            TileSize(64, 64, 8, 2), TileSize(64, 32, 8, 2),
        ),
    },
    ((8, 6), 4): {
        80: 4 * (TileSize(32, 32, 4, 1),),
        128: 4 * (TileSize(32, 32, 8, 1),),
        256: (
            TileSize(32, 16, 4, 1), TileSize(16, 16, 4, 1),
            TileSize(32, 16, 4, 1), TileSize(16, 16, 4, 1),
        ),
    },
}  # fmt: skip


def tile_size(
    device: Device, width: int, dtype: jnp.dtype, kernel: str, lengths: tuple[int, int]
) -> TileSize:
    """What a kernel takes.

    Args:
      device: the CPU, which interprets, takes what 8.6 does.
      width: of a head.
      kernel: one of `KERNELS`.
      lengths: T and S; a tile is not much larger.
    """
    size = jnp.dtype(dtype).itemsize
    rows = TABLE.get((_family(device.capability), size)) or TABLE[(8, 6), size]
    row = rows[min(found for found in rows if found >= padded(width))]
    tile = row[KERNELS.index(kernel)]
    return tile._replace(
        queries=min(tile.queries, _power_of_two(lengths[0])),
        keys=min(tile.keys, _power_of_two(lengths[1])),
    )


def _family(capability: tuple[int, int] | None) -> tuple[int, int]:
    """The capability whose rows a GPU takes: one with as much shared memory."""
    if capability is not None and 9 <= capability[0] <= 11:
        return 9, 0
    return (8, 0) if capability == (8, 0) else (8, 6)


def _power_of_two(length: int) -> int:
    return max(16, 1 << (length - 1).bit_length())


def key_splits(programs: int, tiles: int) -> int:
    """Among how many programs the keys of a tile of few queries are split.

    Args:
      programs: how many there are without.
      tiles: of keys.
    """
    return max(1, min(_PROGRAMS // programs, tiles // _TILES_A_PROGRAM))
