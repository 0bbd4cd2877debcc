"""What the cross entropy tells of each token."""

from typing import NamedTuple

from jaxtyping import Array, Float, Int


class TokenScores(NamedTuple):
    """Per-token results; zero where the token's weight is zero.

    Attributes:
      loss: float32 [M], weighted (and smoothed) cross entropy in nats; the differentiable one.
      log_prob: float32 [M], log-probability of the target, unweighted and unsmoothed.
      argmax: int32 [M], the most probable token.
    """

    loss: Float[Array, "M"]
    log_prob: Float[Array, "M"]
    argmax: Int[Array, "M"]
