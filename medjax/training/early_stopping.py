"""When a training has stopped to improve, by any figure of its validation."""

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from medjax.errors import UserError

MODES = ("auto", "min", "max")
# Figures of which less is better, by any of these words; of all others more is.
_LESS = re.compile(r"loss|reconstruction|commitment|error|distance|repetition|repeated")


def lower_is_better(metric: str, mode: str = "auto") -> bool:
    """Whether a figure improves by falling; `mode` "auto" tells it by the figure's name."""
    return bool(_LESS.search(metric)) if mode == "auto" else mode == "min"


class EarlyStopping:
    """Follows one figure from evaluation to evaluation, and says when to stop.

    Source: Prechelt, Early Stopping - But When? (1998). What it remembers is in each checkpoint
    (`state`), so that an interrupted training stops where an uninterrupted one does.

    Attributes:
      metric: the figure's name, as evaluations tell it: "loss", "exact_match", ...
      lower: whether less of it is better.
      patience: evaluations without improvement after which training stops; 0 never stops.
      min_delta: by how much more than this a value must beat the best, to be an improvement.
      best: the value that was the last improvement; None before the first.
      step: of it.
      since: how many evaluations have followed it.
    """

    def __init__(
        self, metric: str = "loss", mode: str = "auto", patience: int = 0, min_delta: float = 0.0
    ):
        """mode: "min", "max", or "auto": see `lower_is_better`."""
        self.metric, self.lower = metric, lower_is_better(metric, mode)
        self.patience, self.min_delta = patience, min_delta
        self.best: float | None = None
        self.step = self.since = 0

    @property
    def reached(self) -> bool:
        """Whether training is to stop."""
        return 0 < self.patience <= self.since

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """Takes the figures of an evaluation.

        Raises:
          UserError: the metric is not among them.
        """
        self.check(figures)
        value = figures[self.metric]
        gain = math.inf if self.best is None else (value - self.best) * (-1 if self.lower else 1)
        if math.isfinite(value) and gain > self.min_delta:
            self.best, self.step, self.since = value, step, 0
        else:
            self.since += 1

    def check(self, known: Collection[str], where: str = "") -> None:
        """Raises UserError unless the metric is among the names of figures. `where`: of the key."""
        if self.metric not in known:
            raise UserError(
                f"{where}early_stopping.metric is {self.metric!r}, which validation does not tell; "
                f"name one of {', '.join(sorted(known))}. Scores of answers, such as exact_match, "
                "are told where eval_answers is above 0"
            )

    def told(self) -> str:
        """Why training stops, for people."""
        best = "" if self.best is None else f" on {self.best:.4g} of step {self.step}"
        return (
            f"stopped early: validation/{self.metric} has not improved{best} in {self.since} "
            "evaluations (early_stopping.patience)"
        )

    def state(self) -> dict[str, Any]:
        """What it remembers, ready for JSON."""
        return {"best": self.best, "step": self.step, "since": self.since}

    def set_state(self, state: Mapping[str, Any] | None) -> None:
        """Goes on from what `state` gave; from nothing if a checkpoint has none."""
        if state:
            self.best, self.step, self.since = state["best"], state["step"], state["since"]
