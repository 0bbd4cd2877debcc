"""What the cross entropy tells of each token, and how it is asked."""

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


class Options(NamedTuple):
    """What is the same for all tokens; see `api.cross_entropy`.

    Attributes:
      soft_cap: of the logits, or None.
      label_smoothing: in [0, 1).
      vocabulary: V of the whole table, of which a device may hold a part.
    """

    soft_cap: float | None
    label_smoothing: float
    vocabulary: int
