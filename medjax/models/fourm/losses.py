"""What a batch's loss is, once every token has its own.

Sums come first, so that parts of a batch add up exactly; the division happens once.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class ModalityLosses(NamedTuple):
    """Sums over the tokens of each of M modalities; those of parts of a batch add up.

    Attributes:
      loss: float32, nats. tokens: float32, how many there were.
    """

    loss: Float[Array, "M"]
    tokens: Float[Array, "M"]

    @property
    def mean(self) -> Float[Array, "M"]:
        """Loss per token of each modality; zero where there is none."""
        return self.loss / jnp.maximum(self.tokens, 1.0)


def by_modality(
    loss: Float[Array, "B T"],
    modality: Int[Array, "B T"],
    valid: Bool[Array, "B T"],
    modalities: Sequence[int],
) -> ModalityLosses:
    """Sums a loss for each token over the tokens of each modality.

    Args:
      loss: as `FourM.score` gives it.
      modality, valid: as in `DecoderInput`.
      modalities: the ids to sum over, usually those of the config's targets, in their order.
    """
    mine = (modality[..., None] == jnp.asarray(modalities)) & valid[..., None]
    losses = jnp.where(mine, loss[..., None], 0.0)
    return ModalityLosses(losses.sum((0, 1)), mine.sum((0, 1), dtype=jnp.float32))


def token_mean(losses: ModalityLosses) -> Float[Array, ""]:
    """Every token counts the same."""
    return losses.loss.sum() / jnp.maximum(losses.tokens.sum(), 1.0)


def modality_mean(losses: ModalityLosses, *, absent_as_zero: bool = False) -> Float[Array, ""]:
    """Every modality counts the same.

    Args:
      absent_as_zero: a modality without tokens counts as one whose loss is zero, as in the
        original (apple/ml-4m, fourm/models/fm.py: forward_mod_loss), instead of not at all.
    """
    present = jnp.ones_like(losses.tokens) if absent_as_zero else losses.tokens > 0
    return losses.mean.sum() / jnp.maximum(present.sum(dtype=jnp.float32), 1.0)


def logit_mean(losses: ModalityLosses, vocab_sizes: Sequence[int]) -> Float[Array, ""]:
    """Every logit counts the same, so that a token weighs as much as its vocabulary is large.

    What the original calls its token loss (fourm/models/fm.py: forward_token_loss).

    Args:
      vocab_sizes: V of each modality.
    """
    sizes = jnp.asarray(vocab_sizes, jnp.float32)
    return (losses.loss * sizes).sum() / jnp.maximum((losses.tokens * sizes).sum(), 1.0)
