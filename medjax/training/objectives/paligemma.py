"""PaliGemma's: the cross entropy of the answer's tokens."""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax.models.paligemma import PaliGemma
from medjax.training.objective import Batch, Figures, Plain, Sums


class Tokens(NamedTuple):
    """How many supervised tokens, and for how many the most probable one was right."""

    tokens: Float[Array, ""]
    correct: Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class Answers(Plain):
    """The loss of answers.

    Attributes:
      normalize: "example": each example's mean over its own supervised tokens, and the mean of
        these (big_vision); "token": the mean over tokens.
      label_smoothing: see `cross_entropy`.
    """

    normalize: str = "example"
    label_smoothing: float = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """See `Objective`."""
        return "loss", "accuracy"

    def sums(self, model: PaliGemma, part: Batch, shared: Any, index: Any) -> Sums:
        """part: image [B,H,W,3]; tokens, mask_ar, mask_loss [B,T]."""
        del shared, index
        scores = model.score(
            part["image"], part["tokens"], part["mask_ar"], part["mask_loss"],
            label_smoothing=self.label_smoothing,
        )  # fmt: skip
        supervised = (part["mask_loss"][:, 1:] != 0).astype(jnp.float32)
        per_example = supervised.sum(axis=1)
        tokens = per_example.sum()
        if self.normalize == "example":
            loss = jnp.sum(scores.loss.sum(axis=1) / jnp.maximum(per_example, 1.0))
            divisor = jnp.sum(per_example > 0).astype(jnp.float32)
        else:
            loss, divisor = scores.loss.sum(), tokens
        correct = jnp.sum(supervised * (scores.argmax == part["tokens"][:, 1:]))
        return Sums(loss, divisor, Tokens(tokens, correct))

    def figures(self, total: Sums) -> Figures:
        """Loss, share of supervised tokens that were the most probable, and their number."""
        tokens, correct = total.more
        return {
            "loss": total.loss / jnp.maximum(total.divisor, 1.0),
            "accuracy": correct / jnp.maximum(tokens, 1.0),
            "tokens": tokens,
        }
