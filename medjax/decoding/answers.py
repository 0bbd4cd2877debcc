"""What decoding returns."""

from typing import NamedTuple

from jaxtyping import Array, Float, Int


class Answers(NamedTuple):
    """One answer a row.

    Attributes:
      tokens: int32; the end token is part of an answer, what follows it is padding.
      log_probs: float32; natural log-probability that the model gave each token (whatever
        temperature or nucleus it was drawn with), 0 after the end.
      lengths: int32; tokens of each answer, its end token included if it has one.
      logits: float32; the model's logits at each step, 0 after the end; kept on request.
    """

    tokens: Int[Array, "B M"]
    log_probs: Float[Array, "B M"]
    lengths: Int[Array, "B"]
    logits: Float[Array, "B M V"] | None = None

    @property
    def log_prob(self) -> Float[Array, "B"]:
        """Log-probability of each whole answer."""
        return self.log_probs.sum(axis=1)

    @property
    def mean_log_prob(self) -> Float[Array, "B"]:
        """Log-probability per token of each answer."""
        return self.log_prob / self.lengths
