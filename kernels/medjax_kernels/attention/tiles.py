"""Which tiles of T x S may hold a pair that is allowed: the others are never computed.

A tile is told by least and greatest values of its queries' and its keys' integers. What may attend
lies, for each row of tiles, within a range; it is exact where equal segments and modalities lie
side by side and blocks ascend, as they do when sequences are packed in order.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int

from medjax_kernels.attention.tokens import Tokens

_MIN, _MAX = jnp.iinfo(jnp.int32).min, jnp.iinfo(jnp.int32).max


class Range(NamedTuple):
    """Tiles `first <= i < last`; none if both are 0. [B, tiles] each, or [1, tiles]."""

    first: Int[Array, "B tiles"]
    last: Int[Array, "B tiles"]


def ranges(
    queries: Tokens,
    keys: Tokens,
    window: int | None,
    lengths: tuple[int, int],
    sizes: tuple[int, int],
) -> tuple[Range, Range]:
    """(range of key tiles of each query tile, range of query tiles of each key tile).

    Args:
      queries, keys: fields [B, T] and [B, S]; a row of 1 stands for all rows.
      window: see `tokens.allowed`.
      lengths: T and S.
      sizes: queries and keys of one tile; tiles at the end may be cut.
    """
    may = _may_hold(
        _bounds(queries, lengths[0], sizes[0]), _bounds(keys, lengths[1], sizes[1]), window
    )
    rows, columns = may.shape[1:]
    return _range(may, columns), _range(may.mT, rows)


def ranges_of(
    queries: Tokens,
    keys: Tokens,
    window: int | None,
    lengths: tuple[int, int],
    sizes: tuple[int, int],
) -> tuple[Range, Range] | tuple[None, None]:
    """`ranges`, or None where no field could leave a tile out."""
    if all(field is None for field in (*queries, *keys)):
        return None, None
    return ranges(queries, keys, window, lengths, sizes)


def _range(may, count: int) -> Range:
    index = jnp.arange(count, dtype=jnp.int32)
    last = jnp.max(jnp.where(may, index + 1, 0), axis=-1)
    first = jnp.min(jnp.where(may, index, count), axis=-1)
    return Range(jnp.where(last == 0, 0, first), last)


def _bounds(tokens: Tokens, length: int, size: int) -> dict[str, tuple[Array, Array]]:
    """{field: (least, greatest)} of each tile's valid tokens, [B, tiles] each."""
    tail = -length % size
    valid = jnp.ones((1, length), bool) if tokens.valid is None else tokens.valid
    valid = jnp.pad(valid, ((0, 0), (0, tail)))

    def tiles(x):
        return x.reshape(x.shape[0], -1, size)

    found = {}
    for name, value in {**tokens._asdict(), "valid": jnp.zeros((1, length))}.items():
        if value is None:
            continue
        value = jnp.pad(value.astype(jnp.int32), ((0, 0), (0, tail)))
        least = jnp.where(valid, value, _MAX)
        greatest = jnp.where(valid, value, _MIN)
        found[name] = tiles(least).min(axis=-1), tiles(greatest).max(axis=-1)
    return found


def _may_hold(queries: dict, keys: dict, window: int | None):
    """bool [B, query tiles, key tiles]."""

    def overlap(name: str):
        (q_least, q_greatest), (k_least, k_greatest) = queries[name], keys[name]
        return (k_least[:, None, :] <= q_greatest[:, :, None]) & (
            q_least[:, :, None] <= k_greatest[:, None, :]
        )

    may = overlap("valid")  # zero for all: overlaps unless a tile has no valid token
    for name in ("segment", "modality"):
        if name in queries and name in keys:
            may &= overlap(name)
    if "block" in queries and "block" in keys:
        may &= keys["block"][0][:, None, :] <= queries["block"][1][:, :, None]
    if window is not None:
        (q_least, q_greatest), (k_least, k_greatest) = queries["position"], keys["position"]
        # These may overflow for a tile without valid tokens, which is out anyway.
        may &= q_least[:, :, None] - k_greatest[:, None, :] < window
        may &= k_least[:, None, :] - q_greatest[:, :, None] < window
    return may
