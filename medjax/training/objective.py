"""What a model is trained for: the part of a step that differs between kinds of model."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from jaxtyping import Array, Float, Key

Batch = Mapping[str, Any]
Figures = dict[str, Float[Array, ""]]

# Figures that add up over steps; of all others a mean is told.
SUMMED = ("tokens",)


class Sums(NamedTuple):
    """What a part of a batch adds to it; everything adds up, and is divided once.

    Attributes:
      loss: what is differentiated, before its division by `divisor`.
      more: whatever else the objective needs for its figures.
    """

    loss: Float[Array, ""]
    divisor: Float[Array, ""]
    more: Any = ()


class Objective(Protocol):
    """From a model and a batch to a loss.

    Attributes:
      names: of the figures of an evaluation, those that are not always there among them.
      arrays: what it reads beside model and batch (frozen tokenizers), as a pytree of arrays; they
        reach `prepare` as arguments, so that they are no constants of the compiled step.
    """

    arrays: Any

    @property
    def names(self) -> tuple[str, ...]: ...

    def prepare(
        self, arrays: Any, batch: Batch, key: Key[Array, ""], parts: int, source: str
    ) -> tuple[Batch, Any]:
        """What depends on the whole batch, before it is cut into parts.

        Args:
          key: of what is drawn for this batch.
          parts: into how many parts the batch will be cut: part i has rows i, i + parts, ...
          source: of the batch; static.

        Returns:
          A pytree of arrays with a leading axis of rows, and one that every part is given whole.
        """
        ...

    def sums(self, model: Any, part: Batch, shared: Any, index: Any) -> Sums:
        """The sums of part `index`; differentiated with respect to the model's parameters."""
        ...

    def figures(self, total: Sums) -> Figures:
        """What is told of a batch, or of several whose sums were added; `loss` among them."""
        ...

    def carry(self, carried: dict[str, Array], total: Sums) -> tuple[dict[str, Array], Figures]:
        """The `params.Carried` variables by name after a step, and what is told of that."""
        ...


class Plain:
    """What most objectives have in common: nothing is prepared, nothing carried."""

    arrays: Any = ()

    def prepare(self, arrays, batch, key, parts, source):
        """The batch as it is."""
        del arrays, key, parts, source
        return batch, ()

    def carry(self, carried, total):
        """Nothing changes."""
        del total
        return carried, {}
