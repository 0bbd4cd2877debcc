"""What is known of every modality: given, or made by an earlier step."""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from medjax.errors import UserError
from medjax.models.fourm import EncoderInput, FourMConfig, Modality

_Array = Array | np.ndarray


class Known(NamedTuple):
    """The tokens of one modality.

    Attributes:
      tokens: ids; anything where a modality has none, and where not valid. Of an image all of its
        grid, row by row; of a sequence at most its length.
      valid: which are known; an image may have any, a sequence of embeddings those that stand
        first. None known is what an absent modality is.
    """

    tokens: Int[_Array, "B n"]
    valid: Bool[_Array, "B n"]


def full(tokens: Int[_Array, "B n"]) -> Known:
    """All of some tokens."""
    return Known(tokens, np.ones(tokens.shape, bool))


def features_of(modality: Modality, batch: int) -> Known:
    """All patches of an image, or all embeddings of a sequence; see `Modality.features`."""
    return full(np.zeros((batch, modality.length), np.int32))


def positions(modality: Modality, valid: Bool[Array, "B n"]) -> Int[Array, "B n"]:
    """Positions as in training: an index in the grid, and ids of a sequence without gaps."""
    if modality.has_ids and not modality.is_image:
        return jnp.maximum(jnp.cumsum(valid, axis=1, dtype=jnp.int32) - 1, 0)
    return jnp.broadcast_to(jnp.arange(valid.shape[1], dtype=jnp.int32), valid.shape)


def pack(config: FourMConfig, known: Mapping[str, Known], batch: int) -> EncoderInput:
    """What the encoder reads, one modality after another."""
    parts = [
        EncoderInput(
            jnp.asarray(known[name].tokens, jnp.int32),
            positions(config.modality(name), jnp.asarray(known[name].valid)),
            jnp.full(known[name].valid.shape, config.index(name), jnp.int32),
            jnp.asarray(known[name].valid),
        )
        for name in known
    ]
    nothing = jnp.zeros((batch, 0), jnp.int32)
    empty = EncoderInput(nothing, nothing, nothing, nothing.astype(bool))
    return EncoderInput(*(jnp.concatenate(x, axis=1) for x in zip(empty, *parts, strict=True)))


def check(config: FourMConfig, known: Mapping[str, Known]) -> int:
    """The number of samples.

    Raises:
      UserError: a modality that the model does not have, arrays that are not of its shape, ids
        beyond its vocabulary, or none at all.
    """
    batches: dict[str, int] = {}
    for name, (tokens, valid) in known.items():
        if name not in config.names:
            raise UserError(f"known: {name!r} is none of {', '.join(config.names)}")
        modality, shape = config.modality(name), np.shape(tokens)
        wanted = f"[batch, {'' if modality.is_image else 'at most '}{modality.length}]"
        fits = len(shape) == 2 and (
            shape[1] == modality.length if modality.is_image else shape[1] <= modality.length
        )
        if not fits or np.shape(valid) != shape:
            raise UserError(
                f"known: {name!r} has tokens {shape} and valid {np.shape(valid)}; both must be "
                f"{wanted}"
            )
        if modality.vocab_size is not None:
            ids = np.where(valid, tokens, 0)
            beyond = np.argwhere((ids < 0) | (ids >= modality.vocab_size))
            if len(beyond):
                row, at = beyond[0]
                raise UserError(
                    f"known: {name!r} has id {ids[row, at]} in sample {row}, at {at}; its "
                    f"vocabulary ends at {modality.vocab_size - 1}"
                )
        batches[name] = shape[0]
    if len(set(batches.values())) != 1:
        raise UserError(
            f"known: there must be a modality, and as many samples of each as of others: {batches}"
        )
    return next(iter(batches.values()))
