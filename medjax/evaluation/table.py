"""The results of several systems on the same examples, by task and over all questions.

What a system did with one example is a record with an id, a task, scores and so on (`Scored`):
PaliGemma's are `evaluation.predictions.Prediction`, 4M's `evaluation.fourm.report.Record`.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from medjax.evaluation import bootstrap
from medjax.evaluation.predictions import by_id

OVERALL = "overall"
_KINDS = ("question", "detection", "caption")
_NAMES = {
    "exact_match": "exact match",
    "iou": "IoU",
    "token_f1": "token F1",
    "token_accuracy": "token accuracy",
    "dice": "mean Dice",
    "psnr": "PSNR (dB)",
}
# Where an axis of a metric ends that has no greatest value.
_TOPS = {"psnr": 50.0}


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
class Words:
    """What a table calls things.

    Attributes:
      task: what a row is about. examples: what is counted, in the plural.
      cut: how examples that were cut are told of.
    """

    task: str = "task"
    examples: str = "questions"
    cut: str = "Questions longer than text_length, read without their end"


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
      words: what the table calls tasks and questions.
      more: further tables by title, which stand below this one.
    """

    systems: tuple[str, ...]
    tasks: tuple[Row, ...]
    overall: Row | None
    level: float
    groups: str
    truncated: Mapping[str, int]
    words: Words = Words()
    more: Mapping[str, "Results"] = dataclasses.field(default_factory=dict)

    @property
    def rows(self) -> tuple[Row, ...]:
        return (*self.tasks, self.overall) if self.overall else self.tasks

    @property
    def note(self) -> str:
        """How to read the numbers, in a few sentences."""
        text = "Mean score, 0 to 1, "
        if any(row.metric == "psnr" for row in self.rows):
            text = "Mean score, 0 to 1 and PSNR in dB, "
        text += f"with {100 * self.level:g}% bootstrap intervals over {self.groups}."
        if self.overall:
            text += " Overall is exact match over all questions, without captions and detection."
        cut = [f"{name} {count}" for name, count in self.truncated.items() if count]
        if cut:
            text += f" {self.words.cut}: {', '.join(cut)}."
        return text

    def difference_lines(self) -> list[str]:
        """How far the last system is from the others, a line for each other one.

        Overall, or else in the first metric of each task.
        """
        rows: dict[str, Row] = {}
        for row in (self.overall,) if self.overall else self.tasks:
            rows.setdefault(row.task, row)
        return [
            f"{self.systems[-1]} − {other}: {e.value:+.2f} [{e.low:+.2f}, {e.high:+.2f}] "
            + (task if task == OVERALL else f"{metric_name(row.metric)}, {task}")
            for task, row in rows.items()
            for other, e in row.differences.items()
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
        lines += ["", self.note, *self.difference_lines()]
        for title, table in self.more.items():
            lines += ["", title, "", table.to_text()]
        return "\n".join(lines)

    def to_markdown(self) -> str:
        """For a README: a table and what it shows."""
        header, *rows = (
            [cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ") for cell in row]
            for row in self._cells()
        )
        ruler = ["---"] * 2 + ["---:"] * (len(header) - 2)
        table = "\n".join(f"| {' | '.join(row)} |" for row in (header, ruler, *rows))
        differences = "\n".join(f"- {line}" for line in self.difference_lines())
        below = [f"### {title.capitalize()}\n\n{t.to_markdown()}" for title, t in self.more.items()]
        return "\n\n".join(part for part in (table, self.note, differences, *below) if part)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: every number, unrounded; null for the ends of an interval of one group."""
        tasks: dict[str, dict[str, Any]] = {}
        for row in self.tasks:
            tasks.setdefault(row.task, {})[row.metric] = self._row_dict(row)
        overall = self.overall
        return {
            "level": self.level,
            "groups": self.groups,
            "systems": list(self.systems),
            "truncated": dict(self.truncated),
            "tasks": tasks,
            "overall": {overall.metric: self._row_dict(overall)} if overall else None,
            **{title: table.to_dict() for title, table in self.more.items()},
        }

    @property
    def header(self) -> tuple[str, ...]:
        """The names of the columns."""
        words = self.words
        return (words.task, "metric", words.examples, self.groups, *self.systems)

    def of_task(self, task: str) -> "Results":
        """The rows of one task alone, with the systems that did it."""
        rows = tuple(row for row in self.tasks if row.task == task)
        systems = tuple(s for s in self.systems if any(s in row.estimates for row in rows))
        return dataclasses.replace(self, systems=systems, tasks=rows, overall=None, more={})

    def _row_dict(self, row: Row) -> dict[str, Any]:
        return row.to_dict(self.groups, self.words.examples)

    def _cells(self) -> list[list[str]]:
        return [list(self.header)] + [
            [row.task, metric_name(row.metric), str(row.questions), str(row.groups)]
            + [str(row.estimates.get(system, "–")) for system in self.systems]
            for row in self.rows
        ]


def results(
    predictions: Mapping[str, Sequence[Scored]],
    *,
    level: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
    groups: str = "slabs",
    order: Sequence[str] = (),
    words: Words = Words(),
) -> Results:
    """Tabulates the scores of several systems.

    Args:
      predictions: by system. Those that have a task at all have the same examples of it (by id; the
        order may differ).
      level, samples, seed: see `bootstrap.interval`.
      groups: what a prediction's group is, in the plural.
      order: of tasks; those that it does not name follow: questions, then detection, then captions,
        and within those by name.
      words: what the table calls tasks and questions.

    Raises:
      ValueError: there is no system, a system has an id twice, or systems differ in their ids.
    """
    if not predictions:
        raise ValueError("no system to tabulate")
    systems = tuple(predictions)
    indices = {system: by_id(predictions[system]) for system in systems}
    _check_same_examples(indices)
    every: dict[str, Scored] = {}
    for index in indices.values():
        every |= {id: p for id, p in index.items() if id not in every}

    def make_row(task: str, metric: str, keep: Callable[[Scored], bool]) -> Row:
        chosen = [p for p in every.values() if keep(p) and metric in p.scores]
        ids, units = [p.id for p in chosen], [p.group for p in chosen]
        values = {
            name: [index[i].scores[metric] for i in ids]
            for name, index in indices.items()
            if ids[0] in index
        }
        last = values.get(systems[-1])
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
                    *bootstrap.paired_difference(last, values[name], units, level, samples, seed)
                )
                for name in systems[:-1]
                if name in values and last is not None
            },
        )

    def place(task: str) -> tuple[int, int, str]:
        kind = _KINDS.index(kinds[task]) if kinds[task] in _KINDS else len(_KINDS)
        return (order.index(task) if task in order else len(order)), kind, task

    kinds = {p.task: p.kind for p in every.values()}
    found = dict.fromkeys((p.task, metric) for p in every.values() for metric in p.scores)
    rows = [
        make_row(task, metric, lambda p, task=task: p.task == task)  # type: ignore[misc]
        for task, metric in sorted(found, key=lambda pair: place(pair[0]))
    ]
    overall = None
    if any(p.kind == "question" and "exact_match" in p.scores for p in every.values()):
        overall = make_row(OVERALL, "exact_match", lambda p: p.kind == "question")
    truncated = {name: sum(p.truncated for p in index.values()) for name, index in indices.items()}
    return Results(systems, tuple(rows), overall, level, groups, truncated, words)


def _check_same_examples(indices: Mapping[str, Mapping[str, Scored]]) -> None:
    """Raises ValueError where two systems have a task, but other examples of it."""
    found: dict[str, tuple[str, set[str]]] = {}
    for system, index in indices.items():
        ids: dict[str, set[str]] = {}
        for prediction in index.values():
            ids.setdefault(prediction.task, set()).add(prediction.id)
        for task, of_task in ids.items():
            first, expected = found.setdefault(task, (system, of_task))
            if expected ^ of_task:
                raise ValueError(
                    f"{first!r} and {system!r} answered different examples, such as "
                    f"{min(expected ^ of_task)!r}"
                )


def metric_name(metric: str) -> str:
    """The metric as people write it."""
    if metric.startswith("dice/"):
        return f"Dice of {metric.removeprefix('dice/')}"
    return _NAMES.get(metric, metric)


def metric_top(metric: str) -> float:
    """The end of an axis from 0 for the metric's values."""
    return _TOPS.get(metric, 1.0)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Words to the left, numbers to the right, estimates to the left so that their values align."""
    words, counts, estimates = slice(0, 2), slice(2, 4), slice(4, None)
    parts = [c.ljust(w) for c, w in zip(cells[words], widths[words], strict=True)]
    parts += [c.rjust(w) for c, w in zip(cells[counts], widths[counts], strict=True)]
    parts += [c.ljust(w) for c, w in zip(cells[estimates], widths[estimates], strict=True)]
    return "   ".join(parts).rstrip()
