"""Who may attend to whom, told by a few integers per token."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


class Tokens(NamedTuple):
    """What masking needs to know of the tokens of one side (queries or keys). None: no such rule.

    A rule holds where both sides have the field; `valid` holds for each side alone.

    Attributes:
      block: int [B, T]; a query attends to keys of its own and of earlier blocks. All equal is full
        attention, 0, 1, 2, ... is causal, and 0, 0, 0, 1, 2, ... is a prefix-LM.
      segment: int [B, T]; a query attends to keys of its own segment only (packed sequences).
      modality: int [B, T]; a query attends to keys of its own modality only (4M's separated
        decoder, arXiv:2312.06647). Apart from `segment`, so that packed samples can have both.
      position: int [B, T]; what a sliding window measures distances in; 0, 1, 2, ... if None.
      valid: bool [B, T]; nobody attends to a key that is not valid, and a query that is not valid
        attends to nothing.
    """

    block: Int[Array, "B T"] | None = None
    segment: Int[Array, "B T"] | None = None
    modality: Int[Array, "B T"] | None = None
    position: Int[Array, "B T"] | None = None
    valid: Bool[Array, "B T"] | None = None


def up_to(lengths: Int[Array, "B"], size: int) -> Bool[Array, "B S"]:
    """`valid` of a cache of `size` slots whose row b is filled up to `lengths[b]`."""
    return jnp.arange(size) < lengths[:, None]


def allowed(
    queries: Tokens, keys: Tokens, window: int | None = None
) -> Bool[Array, "B T S"] | None:
    """Which query may attend to which key; None if every one may.

    For tests, pictures and one tile at a time inside an implementation: the whole array of a long
    sequence is what the implementations avoid.

    Args:
      window: a query attends to keys less than this many positions away from it, on either side;
        needs both sides' `position` (see `with_positions`).
    """
    rows = jax.tree.map(lambda x: x[:, :, None], queries)
    columns = jax.tree.map(lambda x: x[:, None, :], keys)
    return pairs(rows, columns, window)


def pairs(queries: Tokens, keys: Tokens, window: int | None = None) -> Bool[Array, "..."] | None:
    """`allowed` of fields whose shapes broadcast against each other already: [T, 1] and [1, S]."""
    rules = []
    if queries.block is not None and keys.block is not None:
        rules.append(keys.block <= queries.block)
    if queries.segment is not None and keys.segment is not None:
        rules.append(keys.segment == queries.segment)
    if queries.modality is not None and keys.modality is not None:
        rules.append(keys.modality == queries.modality)
    if window is not None and queries.position is not None and keys.position is not None:
        rules.append(jnp.abs(queries.position - keys.position) < window)
    if keys.valid is not None:
        rules.append(keys.valid)
    if queries.valid is not None:
        rules.append(queries.valid)
    return functools.reduce(jnp.logical_and, rules) if rules else None


def with_positions(tokens: Tokens, length: int) -> Tokens:
    """`tokens` with positions 0, 1, 2, ... if it has none."""
    if tokens.position is not None:
        return tokens
    return tokens._replace(position=jnp.arange(length, dtype=jnp.int32)[None])


def shared_rules(queries: Tokens, keys: Tokens, window: int | None) -> tuple[Tokens, Tokens]:
    """Both sides without the fields that only one of them has, or that nobody asks for; int32."""

    def kept(name: str) -> bool:
        if name == "position":
            return window is not None
        both = getattr(queries, name) is not None and getattr(keys, name) is not None
        return both or name == "valid"

    def plain(tokens: Tokens) -> Tokens:
        """Its integers as int32: differences of small or unsigned ones would wrap."""
        dropped = tokens._replace(**{name: None for name in Tokens._fields if not kept(name)})
        return jax.tree.map(
            lambda x: jnp.asarray(x, None if x.dtype == bool else jnp.int32), dropped
        )

    return plain(queries), plain(keys)


def check(tokens: Tokens, batch: int, length: int, side: str) -> None:
    """Raises ValueError if a field is not [batch, length] (or [1, length]), or of another kind."""
    for name, value in tokens._asdict().items():
        if value is None:
            continue
        if tuple(jnp.shape(value)) not in {(batch, length), (1, length)}:
            raise ValueError(
                f"{side}.{name} has shape {jnp.shape(value)}, but the {side} are "
                f"[batch, length] = [{batch}, {length}]"
            )
        kind, word = (jnp.bool_, "bool") if name == "valid" else (jnp.integer, "integers")
        if not jnp.issubdtype(jnp.result_type(value), kind):
            raise ValueError(f"{side}.{name} is {jnp.result_type(value)}, expected {word}")


def slice_tokens(tokens: Tokens, start: jax.Array | int, size: int) -> Tokens:
    """The tokens `start : start + size` of every row; `start` may be traced."""
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, size, axis=1), tokens)
