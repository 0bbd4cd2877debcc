"""The results of several systems on the same examples, by task and over all questions."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from medjax.evaluation import bootstrap
from medjax.evaluation.predictions import Prediction, by_id

OVERALL = "overall"
_KINDS = ("question", "detection", "caption")


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
      estimates: by system, in the order of `Results.systems`.
      differences: the last system minus each other one, on the same examples, by the other's name.
    """

    task: str
    metric: str
    questions: int
    groups: int
    estimates: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]

    def to_dict(self, groups: str) -> dict[str, Any]:
        return {
            "questions": self.questions,
            groups: self.groups,
            "systems": {name: e.to_dict() for name, e in self.estimates.items()},
            "differences": {name: e.to_dict() for name, e in self.differences.items()},
        }


@dataclasses.dataclass(frozen=True)
class Results:
    """A table of results.

    Attributes:
      systems: names, in the order given; the last is the one that the others are compared with.
      tasks: a row for each task and metric: questions, then detection, then captions.
      overall: exact match over all questions (neither captions nor detection); None without any.
      level: of the intervals.
      groups: what a group is, in the plural: "slabs", "patients".
      truncated: how many questions were too long for a system, by its name.
    """

    systems: tuple[str, ...]
    tasks: tuple[Row, ...]
    overall: Row | None
    level: float
    groups: str
    truncated: Mapping[str, int]

    @property
    def rows(self) -> tuple[Row, ...]:
        return (*self.tasks, self.overall) if self.overall else self.tasks

    @property
    def note(self) -> str:
        """How to read the numbers, in a few sentences."""
        text = "Mean score, 0 to 1, with "
        text += f"{100 * self.level:g}% bootstrap intervals over {self.groups}."
        if self.overall:
            text += " Overall is exact match over all questions, without captions and detection."
        cut = [f"{name} {count}" for name, count in self.truncated.items() if count]
        if cut:
            text += f" Questions longer than text_length, read without their end: {', '.join(cut)}."
        return text

    def difference_lines(self) -> list[str]:
        """How far the last system is from the others overall: one line for each other system."""
        if not self.overall:
            return []
        return [
            f"{self.systems[-1]} − {other}: {e.value:+.2f} [{e.low:+.2f}, {e.high:+.2f}] overall"
            for other, e in self.overall.differences.items()
            if not math.isnan(e.low)
        ]

    def to_text(self) -> str:
        """For the console, with aligned columns."""
        header, *rows = self._cells()
        widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
        aligned = [_aligned(row, widths) for row in (header, *rows)]
        rule = "─" * max(map(len, aligned))
        lines = [aligned[0], rule, *aligned[1:]]
        if self.overall:
            lines.insert(-1, rule)
        return "\n".join([*lines, "", self.note, *self.difference_lines()])

    def to_markdown(self) -> str:
        """For a README: a table and what it shows."""
        header, *rows = (
            [cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ") for cell in row]
            for row in self._cells()
        )
        ruler = ["---"] * 2 + ["---:"] * (len(header) - 2)
        table = "\n".join(f"| {' | '.join(row)} |" for row in (header, ruler, *rows))
        return "\n\n".join([table, self.note, *self.difference_lines()])

    def to_dict(self) -> dict[str, Any]:
        """For JSON: every number, unrounded; null for the ends of an interval of one group."""
        tasks: dict[str, dict[str, Any]] = {}
        for row in self.tasks:
            tasks.setdefault(row.task, {})[row.metric] = row.to_dict(self.groups)
        overall = self.overall
        return {
            "level": self.level,
            "groups": self.groups,
            "systems": list(self.systems),
            "truncated": dict(self.truncated),
            "tasks": tasks,
            "overall": {overall.metric: overall.to_dict(self.groups)} if overall else None,
        }

    def _cells(self) -> list[list[str]]:
        header = ["task", "metric", "questions", self.groups, *self.systems]
        return [header] + [
            [row.task, metric_name(row.metric), str(row.questions), str(row.groups)]
            + [str(row.estimates[system]) for system in self.systems]
            for row in self.rows
        ]


def results(
    predictions: Mapping[str, Sequence[Prediction]],
    *,
    level: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
    groups: str = "slabs",
) -> Results:
    """Tabulates the scores of several systems.

    Args:
      predictions: by system, all on the same examples (by id; the order may differ).
      level, samples, seed: see `bootstrap.interval`.
      groups: what a prediction's group is, in the plural.

    Raises:
      ValueError: there is no system, a system has an id twice, or systems differ in their ids.
    """
    if not predictions:
        raise ValueError("no system to tabulate")
    systems = tuple(predictions)
    indices = {system: by_id(predictions[system]) for system in systems}
    first = indices[systems[0]]
    for system in systems[1:]:
        unshared = first.keys() ^ indices[system].keys()
        if unshared:
            raise ValueError(
                f"{systems[0]!r} and {system!r} answered different examples, such as "
                f"{min(unshared)!r}"
            )

    def make_row(task: str, metric: str, keep: Callable[[Prediction], bool]) -> Row:
        chosen = [p for p in first.values() if keep(p) and metric in p.scores]
        ids, units = [p.id for p in chosen], [p.group for p in chosen]
        values = {name: [index[i].scores[metric] for i in ids] for name, index in indices.items()}
        return Row(
            task=task,
            metric=metric,
            questions=len(ids),
            groups=len(set(units)),
            estimates={
                name: Estimate(
                    math.fsum(v) / len(v), *bootstrap.interval(v, units, level, samples, seed)
                )
                for name, v in values.items()
            },
            differences={
                name: Estimate(
                    *bootstrap.paired_difference(
                        values[systems[-1]], values[name], units, level, samples, seed
                    )
                )
                for name in systems[:-1]
            },
        )

    # Questions come first, then detection, then captions; within those, tasks by name.
    kinds = {p.task: _KINDS.index(p.kind) for p in first.values()}
    found = {(kinds[p.task], p.task, metric) for p in first.values() for metric in p.scores}
    rows = [
        make_row(task, metric, lambda p, task=task: p.task == task)  # type: ignore[misc]
        for _, task, metric in sorted(found)
    ]
    overall = None
    if any(p.kind == "question" and "exact_match" in p.scores for p in first.values()):
        overall = make_row(OVERALL, "exact_match", lambda p: p.kind == "question")
    truncated = {name: sum(p.truncated for p in index.values()) for name, index in indices.items()}
    return Results(systems, tuple(rows), overall, level, groups, truncated)


def metric_name(metric: str) -> str:
    """The metric as people write it."""
    return {"exact_match": "exact match", "iou": "IoU", "token_f1": "token F1"}.get(metric, metric)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Words to the left, numbers to the right, estimates to the left so that their values align."""
    words, counts, estimates = slice(0, 2), slice(2, 4), slice(4, None)
    parts = [c.ljust(w) for c, w in zip(cells[words], widths[words], strict=True)]
    parts += [c.rjust(w) for c, w in zip(cells[counts], widths[counts], strict=True)]
    parts += [c.ljust(w) for c, w in zip(cells[estimates], widths[estimates], strict=True)]
    return "   ".join(parts).rstrip()
