"""What the model reads: a few tokens of every modality, packed into one sequence.

`medjax_kernels.masking` makes records with these fields, too; the model takes either.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from medjax.models.fourm.config import FourMConfig


class EncoderInput(NamedTuple):
    """Packed input, S tokens for each sample.

    Attributes:
      tokens: ids; anything where a modality has none (patches, embeddings), and where not valid.
      positions: of an image's token, its index in the grid; of a sequence's, its index in the
        sequence. Patches and embeddings are gathered by them.
      modality: index in the config's modalities; anything where not valid.
      valid: whether there is a token.
    """

    tokens: Int[Array, "B S"]
    positions: Int[Array, "B S"]
    modality: Int[Array, "B S"]
    valid: Bool[Array, "B S"]


class DecoderInput(NamedTuple):
    """Packed target, T tokens for each sample.

    Attributes:
      tokens: ids that a sequence's decoder reads; of an image it reads a mask token instead.
      targets: ids to predict: an image's own, the next of a sequence.
      positions, modality, valid: see `EncoderInput`.
      block: constant within an image, counting up within a sequence; ascending from modality to
        modality where they are not separate: see `medjax_kernels.Tokens`.
    """

    tokens: Int[Array, "B T"]
    targets: Int[Array, "B T"]
    positions: Int[Array, "B T"]
    modality: Int[Array, "B T"]
    block: Int[Array, "B T"]
    valid: Bool[Array, "B T"]


class Encoded(NamedTuple):
    """What the encoder made of its S tokens, register tokens in front.

    Attributes:
      hidden: after the final norm, float32.
      context: what the decoder attends to: `hidden` projected, with positions and modality added
        again.
      valid: whether the decoder may attend to it.
    """

    hidden: Float[Array, "B S D"]
    context: Float[Array, "B S D"]
    valid: Bool[Array, "B S"]


def all_features(
    config: FourMConfig, features: Mapping[str, Float[Array, "B n I"]], batch: int
) -> dict[str, Array]:
    """Features of every modality that the model reads as such; of those that are absent, zeros.

    The model wants them also where no token is of theirs, so that none is forgotten by mistake.
    """
    read = [config.modality(name) for name in config.inputs]
    absent = [m for m in read if not m.has_ids and m.name not in features]
    return {**features, **{m.name: jnp.zeros((batch, 1, m.features)) for m in absent}}
