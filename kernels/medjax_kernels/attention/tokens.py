"""Who may attend to whom, told by a few integers per token."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


class Tokens(NamedTuple):
    """What masking needs to know of the tokens of one side (queries or keys). None: no such rule.

    Attributes:
      block: int [B, T]; a query attends to keys of its own and of earlier blocks. All equal is full
        attention, 0, 1, 2, ... is causal, and 0, 0, 0, 1, 2, ... is a prefix-LM.
      segment: int [B, T]; a query attends to keys of its own segment only (packed sequences).
      valid: bool [B, T]; nobody attends to a key that is not valid, and a query that is not valid
        attends to nothing.
    """

    block: Int[Array, "B T"] | None = None
    segment: Int[Array, "B T"] | None = None
    valid: Bool[Array, "B T"] | None = None


def allowed(queries: Tokens, keys: Tokens) -> Bool[Array, "B T S"] | None:
    """Which query may attend to which key; None if every one may.

    For tests, pictures and one tile at a time inside an implementation: the whole array of a long
    sequence is what the implementations avoid.
    """
    rules = []
    if queries.block is not None and keys.block is not None:
        rules.append(keys.block[:, None, :] <= queries.block[:, :, None])
    if queries.segment is not None and keys.segment is not None:
        rules.append(keys.segment[:, None, :] == queries.segment[:, :, None])
    if keys.valid is not None:
        rules.append(keys.valid[:, None, :])
    if queries.valid is not None:
        rules.append(queries.valid[:, :, None])
    if not rules:
        return None
    result = rules[0]
    for rule in rules[1:]:
        result = result & rule
    return result


def check(tokens: Tokens, batch: int, length: int, side: str) -> None:
    """Raises ValueError if a field's shape is not [batch, length] (or [1, length])."""
    for name, value in tokens._asdict().items():
        if value is not None and tuple(jnp.shape(value)) not in {(batch, length), (1, length)}:
            raise ValueError(
                f"{side}.{name} has shape {jnp.shape(value)}, but the {side} are "
                f"[batch, length] = [{batch}, {length}]"
            )


def slice_tokens(tokens: Tokens, start: jax.Array | int, size: int) -> Tokens:
    """The tokens `start : start + size` of every row; `start` may be traced."""
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, size, axis=1), tokens)
