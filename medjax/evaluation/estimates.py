"""Means with intervals, of several systems, of many metrics, on any part of the examples."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool

from medjax.evaluation.bootstrap import Draws
from medjax.evaluation.metrics import Metric, applicable


class Scored(Protocol):
    """One system's answer to one example; the fields are those of `Prediction`."""

    @property
    def id(self) -> str: ...
    @property
    def task(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def truncated(self) -> bool: ...
    @property
    def scores(self) -> Mapping[str, float]: ...


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean and its interval, whose ends are nan where there is only one group."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{self.value:.2f}"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"

    def to_dict(self) -> dict[str, float | None]:
        ends = {"low": self.low, "high": self.high}
        return {"value": self.value} | {k: None if math.isnan(v) else v for k, v in ends.items()}


@dataclasses.dataclass(frozen=True)
class Row:
    """One metric of one task.

    Attributes:
      task: its name; `OVERALL` for all questions together.
      metric: the score's name.
      questions: how many examples have this score.
      groups: how many independent groups they come from.
      estimates: by system, in the order of `Results.systems`, without those that left the task out.
      differences: the last system minus each other one, on the same examples, by the other's name;
        empty where the last system left the task out.
    """

    task: str
    metric: str
    questions: int
    groups: int
    estimates: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]

    def to_dict(self, groups: str, examples: str) -> dict[str, Any]:
        return {
            examples: self.questions,
            groups: self.groups,
            "systems": {name: e.to_dict() for name, e in self.estimates.items()},
            "differences": {name: e.to_dict() for name, e in self.differences.items()},
        }


class Sheet:
    """Every system's scores of all examples, as arrays.

    Attributes:
      examples: each once, as the first system has it that has it at all.
      metrics: names, in order of appearance; those of whole sets follow.
      has: [examples, metrics], whether the example is scored by the metric.
    """

    def __init__(
        self,
        indices: Mapping[str, Mapping[str, Any]],
        corpus: Sequence[Metric],
        *,
        level: float,
        samples: int,
        seed: int,
    ):
        """Gathers the scores.

        Args:
          indices: by system, its records (`Scored`) by id.
          corpus: metrics of whole sets, which read the records as answers (`metrics.Answer`).
          level, samples, seed: see `bootstrap.interval`.
        """
        every: dict[str, Any] = {}
        for index in indices.values():
            every |= {id: p for id, p in index.items() if id not in every}
        self.examples = list(every.values())
        names = list(dict.fromkeys(metric for p in self.examples for metric in p.scores))
        self.metrics = (*names, *(metric.name for metric in corpus))
        self._corpus = {metric.name: metric for metric in corpus}
        self._records = {s: [index.get(id) for id in every] for s, index in indices.items()}
        self._there = {
            s: np.array([record is not None for record in records])
            for s, records in self._records.items()
        }
        self._values = {
            s: np.array(
                [[p.scores.get(n, np.nan) if p else np.nan for n in names] for p in records]
            ).reshape(len(records), len(names))
            for s, records in self._records.items()
        }
        self.has = self._find_has(names, corpus)
        self._settings = (level, samples, seed)

    def _find_has(
        self, names: Sequence[str], corpus: Sequence[Metric]
    ) -> Bool[np.ndarray, "examples metrics"]:
        scored = [[name in p.scores for name in names] for p in self.examples]
        of_sets = [
            [metric in fitting for metric in corpus]
            for fitting in (applicable(p, corpus) if corpus else [] for p in self.examples)
        ]
        return np.concatenate(
            [
                np.array(part, bool).reshape(len(self.examples), width)
                for part, width in ((scored, len(names)), (of_sets, len(corpus)))
            ],
            axis=1,
        )

    def rows(
        self, task: str, part: Bool[np.ndarray, "examples"], metrics: Sequence[str]
    ) -> list[Row]:
        """The estimates of those metrics that a part of the examples has.

        Args:
          task: what the rows are called.
          part: which examples are meant.
          metrics: names.
        """
        # Metrics of the same examples have the same draws.
        shared: dict[bytes, list[str]] = {}
        for metric in metrics:
            if metric not in self.metrics:
                continue
            members = part & self.has[:, self.metrics.index(metric)]
            if members.any():
                shared.setdefault(members.tobytes(), []).append(metric)
        found: dict[str, Row] = {}
        for key, names in shared.items():
            members = np.flatnonzero(np.frombuffer(key, bool))
            found |= {row.metric: row for row in self._rows(task, members, names)}
        return [found[metric] for metric in metrics if metric in found]

    def _rows(self, task: str, members: np.ndarray, metrics: Sequence[str]) -> list[Row]:
        """The estimates of metrics that all have these examples."""
        level, samples, seed = self._settings
        draws = Draws([self.examples[i].group for i in members], samples, seed)
        systems = [s for s, there in self._there.items() if there[members].all()]
        if not systems:
            return []
        # Columns of numbers first, then what is computed of whole sets.
        plain = [(s, m) for s in systems for m in metrics if m not in self._corpus]
        whole = [(s, m) for s in systems for m in metrics if m in self._corpus]
        columns = np.zeros((len(members), len(plain)))
        for place, (system, metric) in enumerate(plain):
            columns[:, place] = self._values[system][members, self.metrics.index(metric)]
        if not np.isfinite(columns).all():
            raise ValueError(f"a system lacks scores of {task!r}, or they are not finite")
        of_sets = [
            self._corpus[m].prepare([self._records[s][i] for i in members], draws.index)
            for s, m in whole
        ]
        once = np.ones((1, draws.size))
        points = [math.fsum(column) / len(column) for column in columns.T.tolist()]
        points += [float(statistic(once)[0]) for statistic in of_sets]
        value = dict(zip([*plain, *whole], points, strict=True))
        sets = draws.means(columns, of_sets) if draws.size > 1 else np.zeros((0, len(points)))
        drawn = dict(zip([*plain, *whole], sets.T, strict=True))

        last = list(self._there)[-1]
        others = [s for s in systems if s != last] if last in systems else []
        for s in others:
            for m in metrics:
                # A mean of differences is a difference of means; so pairing costs nothing more.
                value[f"{last} - {s}", m] = value[last, m] - value[s, m]
                drawn[f"{last} - {s}", m] = drawn[last, m] - drawn[s, m]
        lows, highs = draws.intervals(np.stack(list(drawn.values()), axis=1), level)
        estimates = {
            key: Estimate(value[key], float(low), float(high))
            for key, low, high in zip(drawn, lows, highs, strict=True)
        }
        return [
            Row(
                task=task,
                metric=metric,
                questions=len(members),
                groups=draws.size,
                estimates={s: estimates[s, metric] for s in systems},
                differences={s: estimates[f"{last} - {s}", metric] for s in others},
            )
            for metric in metrics
            if not math.isnan(estimates[systems[0], metric].value)
        ]
