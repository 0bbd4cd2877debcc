"""How a stage's training went: its curves, where it was best, and from where it overfitted.

What is read is metrics.jsonl, which the loop writes: a row a step that was logged or evaluated.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from medjax import config as config_lib
from medjax import workdir as workdir_lib
from medjax.errors import UserError
from medjax.evaluation.table import metric_name
from medjax.training.early_stopping import EarlyStopping

FILE = "metrics.jsonl"
_VALIDATION = "validation/"
_PLACES = ("step", "epoch")
# A validation loss has risen once it is above the lowest by more than this share of it, and for
# good if so many evaluations follow the last one that was not.
_RISE, _EVALUATIONS = 0.01, 2


def figure_name(name: str) -> str:
    """A figure as people write it."""
    return "token accuracy" if name == "accuracy" else metric_name(name)


@dataclasses.dataclass(frozen=True)
class Curve:
    """One figure as training went on: where it was told, in `Curves.unit`, and its values."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    def binned(self, bins: int) -> "Curve":
        """Means over so many stretches of equally many points; itself if it has no more points."""
        if len(self.x) <= bins:
            return self
        parts = [np.array_split(np.asarray(values), bins) for values in (self.x, self.y)]
        return Curve(*(tuple(float(part.mean()) for part in of) for of in parts))


@dataclasses.dataclass(frozen=True)
class Curves:
    """The curves of one stage.

    Attributes:
      stage: its name.
      unit: of the curves' x: "epoch", or "step" where the file knows no epochs.
      train, validation: by the figure's name; of training those that validation tells, too, and
        the loss.
      evaluations: {"step": ..., "epoch": ..., figure: ...} of each, with the mean "train loss"
        since the one before.
      metric: by which the best evaluation is the best (`early_stopping.metric`).
      best: which evaluation that is; None without any. The earliest of equals.
      risen: the evaluation from which on the validation loss has risen for good; None if it has
        not.
      stopped: whether training ended there by `early_stopping.patience`.
      steps: done; planned: of the config, 0 if it says epochs.
    """

    stage: str
    unit: str
    train: Mapping[str, Curve]
    validation: Mapping[str, Curve]
    evaluations: Sequence[Mapping[str, float]]
    metric: str
    best: int | None
    risen: int | None
    stopped: bool
    steps: int
    planned: int

    @property
    def end(self) -> float:
        """The last x of all."""
        curves = (*self.train.values(), *self.validation.values())
        return max((curve.x[-1] for curve in curves), default=0.0)

    def place(self, evaluation: int) -> float:
        """Where an evaluation lies on the axis."""
        return self.evaluations[evaluation][self.unit]

    def told(self) -> str:
        """What the curves show, in a sentence or two."""
        parts = [f"{self.steps:,} steps"]
        if self.stopped:
            of = f" of {self.planned:,}" if self.planned else ""
            parts = [f"stopped early after {self.steps:,}{of} steps"]
        if self.best is not None:
            best = self.evaluations[self.best]
            parts.append(f"best validation {self.metric} {best[self.metric]:.4g} {self._at(best)}")
        if self.risen is not None:
            parts.append(f"overfitting {self._at(self.evaluations[self.risen], 'from')}")
        return "; ".join(parts)

    def _at(self, evaluation: Mapping[str, float], word: str = "at") -> str:
        step = f"step {evaluation['step']:,}"
        return f"{word} {step}" + (
            f" (epoch {evaluation['epoch']:.3g})" if self.unit == "epoch" else ""
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""

        def at(place: int | None) -> Mapping[str, float] | None:
            return None if place is None else self.evaluations[place]

        return {
            "stage": self.stage,
            "steps": self.steps,
            "stopped_early": self.stopped,
            "metric": self.metric,
            "best": at(self.best),
            "overfitting_from": at(self.risen),
            "evaluations": list(self.evaluations),
        }


def of_run(path: str | pathlib.Path, stages: Sequence[str] = ()) -> list[Curves]:
    """The curves of a run's stages, in their order.

    Args:
      path: of the run's folder.
      stages: names; all that have begun if none.

    Raises:
      UserError: it is no run's folder, there is no such stage, or it has not been trained.
    """
    config, workdir = workdir_lib.read_config(path), workdir_lib.Workdir.of(path)
    names = config_lib.stage_names(config)
    if unknown := [stage for stage in stages if stage not in names]:
        raise UserError(f"{path} has no stage {unknown[0]!r}; it has {', '.join(names)}")
    begun = [name for name in names if (workdir.stage(name) / FILE).is_file()]
    if missing := [stage for stage in stages if stage not in begun]:
        raise UserError(f"{path}: stage {missing[0]} is not trained yet; run medjax.train")
    if not begun:
        raise UserError(f"{path}: no stage is trained yet; run medjax.train")
    return [
        of_stage(name, config_lib.stage_config(config, name), workdir.stage(name))
        for name in stages or begun
    ]


def of_stage(stage: str, config: ConfigDict, folder: pathlib.Path) -> Curves:
    """The curves of one stage, from its config and its folder.

    Raises:
      UserError: the file of its metrics cannot be read.
    """
    rows = _rows(folder / FILE)
    unit = "epoch" if rows and all("epoch" in row for row in rows) else "step"
    evaluations = _evaluations(rows)
    told = dict.fromkeys(key for row in evaluations for key in row if key not in _PLACES)
    stopping = EarlyStopping(**config.early_stopping.to_dict())
    known = [row for row in evaluations if stopping.metric in row]
    for row in known:
        stopping.add(int(row["step"]), row)
    goods = [row.get(stopping.metric, math.nan) for row in evaluations]
    if stopping.lower:
        goods = [-good for good in goods]
    return Curves(
        stage=stage,
        unit=unit,
        train={
            name: curve
            for name in dict.fromkeys(("loss", *told))
            if (curve := _curve(rows, unit, name))
        },
        validation={name: curve for name in told if (curve := _curve(evaluations, unit, name))},
        evaluations=[{**row, **mean} for row, mean in zip(evaluations, _means(rows), strict=True)],
        metric=stopping.metric,
        best=int(np.nanargmax(goods)) if np.isfinite(goods).any() else None,
        risen=risen([row.get("loss", math.nan) for row in evaluations]),
        stopped=stopping.reached,
        steps=int(rows[-1]["step"]) if rows else 0,
        planned=config.steps,
    )


def risen(losses: Sequence[float]) -> int | None:
    """From which evaluation on a validation loss has risen for good; None if it has not.

    That is the last one as good as the lowest, but for one part in a hundred, if two or more follow
    it: from there on, what is learned of the training data costs on others.
    """
    values = np.asarray(losses, np.float64)
    if not np.isfinite(values).any():
        return None
    least = np.nanmin(values)
    last = int(np.flatnonzero(values <= least + _RISE * abs(least))[-1])
    return last if len(values) - 1 - last >= _EVALUATIONS else None


def _rows(path: pathlib.Path) -> list[dict[str, float]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: these metrics cannot be read ({error})") from error
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue  # a line that a kill cut short
        if isinstance(row, dict) and "step" in row:
            rows.append(row)
    return rows


def _evaluations(rows: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """The rows of evaluations: their places, and what validation told."""
    found = []
    for row in rows:
        told = {k.removeprefix(_VALIDATION): v for k, v in row.items() if k.startswith(_VALIDATION)}
        if told:
            found.append({key: row[key] for key in _PLACES if key in row} | told)
    return found


def _means(rows: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """The mean training loss since the evaluation before, for each; nothing if none was told."""
    means, losses = [], []
    for row in rows:
        if "loss" in row:
            losses.append(row["loss"])
        if any(key.startswith(_VALIDATION) for key in row):
            means.append({"train loss": float(np.mean(losses))} if losses else {})
            losses = []
    return means


def _curve(rows: Sequence[Mapping[str, float]], unit: str, name: str) -> Curve | None:
    points = [(row[unit], row[name]) for row in rows if math.isfinite(row.get(name, math.nan))]
    return Curve(*map(tuple, zip(*points, strict=True))) if points else None
