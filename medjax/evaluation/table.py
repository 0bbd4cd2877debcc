"""The results of several systems on the same examples, by task and over all questions.

What a system did with one example is a record with an id, a task, scores and so on (`Scored`):
PaliGemma's are `evaluation.predictions.Prediction`, 4M's `evaluation.fourm.report.Record`.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from medjax.evaluation import breakdown
from medjax.evaluation.estimates import Estimate, Row, Scored, Sheet
from medjax.evaluation.metrics import BASIC, METRICS, chosen
from medjax.evaluation.predictions import by_id

__all__ = [
    "OVERALL",
    "Estimate",
    "Results",
    "Row",
    "Scored",
    "Words",
    "metric_name",
    "metric_top",
    "results",
]

OVERALL = "overall"
_KINDS = ("question", "detection", "segmentation", "caption")
# Of the metrics that are not in the table of `metrics`: 4M's.
_NAMES = {
    "token_accuracy": "token accuracy",
    "psnr": "PSNR (dB)",
}
# Where an axis of a metric ends that has no greatest value.
_TOPS = {"psnr": 50.0}


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
class Results:
    """A table of results.

    Attributes:
      systems: names, in the order given; the last is the one that the others are compared with.
      tasks: a row for each task and metric: questions, detection, segmentation, captions.
      overall: exact match over all questions (no captions, boxes or masks); None without any.
      level: of the intervals.
      groups: what a group is, in the plural: "slabs", "patients".
      truncated: how many questions were too long for a system, by its name.
      words: what the table calls tasks and questions.
      totals: each metric that is not basic, over all examples that it scores.
      by: by key, such as "modality": a row for each value and main metric, the value as the task.
      more: further tables by title, which stand below this one.
    """

    systems: tuple[str, ...]
    tasks: tuple[Row, ...]
    overall: Row | None
    level: float
    groups: str
    truncated: Mapping[str, int]
    words: Words = Words()
    totals: tuple[Row, ...] = ()
    by: Mapping[str, tuple[Row, ...]] = dataclasses.field(default_factory=dict)
    more: Mapping[str, "Results"] = dataclasses.field(default_factory=dict)

    @property
    def rows(self) -> tuple[Row, ...]:
        """What tables show: of each task its main metrics, then all over everything."""
        main = (row for row in self.tasks if row.metric not in METRICS or METRICS[row.metric].main)
        return (*main, *self._overall_rows)

    @property
    def _overall_rows(self) -> tuple[Row, ...]:
        return ((self.overall,) if self.overall else ()) + self.totals

    @property
    def note(self) -> str:
        """How to read the numbers, in a few sentences."""
        text = "Mean score, 0 to 1, "
        if any(row.metric == "psnr" for row in self.rows):
            text = "Mean score, 0 to 1 and PSNR in dB, "
        text += f"with {100 * self.level:g}% bootstrap intervals over {self.groups}."
        if self.overall:
            text += " Overall is exact match over all questions, without captions, boxes and masks"
            text += "; other metrics are over all that they score." if self.totals else "."
        shown = [METRICS[m] for m in dict.fromkeys(r.metric for r in self.rows) if m in METRICS]
        if tops := [f"{m.title} 0 to {m.top:g}" for m in shown if m.top > 1 and m.better]:
            text += f" Not from 0 to 1: {', '.join(tops)}."
        if neither := [m.title for m in shown if not m.better]:
            text += f" Neither more nor less is better: {', '.join(neither)}."
        if less := [m.title for m in shown if m.better == "lower"]:
            text += f" Less is better: {', '.join(less)}."
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
        if below := len(self._overall_rows):
            lines.insert(-below, rule)
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
        parts = [table, self.note, differences]
        for part in self.breakdowns():
            # A table alone: note and differences are those above.
            parts += [f"### By {part.words.task}", part.to_markdown().split("\n\n")[0]]
        parts += [
            f"### {title.capitalize()}\n\n{t.to_markdown()}" for title, t in self.more.items()
        ]
        return "\n\n".join(part for part in parts if part)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: every number, unrounded; null for the ends of an interval of one group."""
        return {
            "level": self.level,
            "groups": self.groups,
            "systems": list(self.systems),
            "truncated": dict(self.truncated),
            "tasks": self._nested(self.tasks),
            "overall": {row.metric: self._row_dict(row) for row in self._overall_rows} or None,
            **(
                {"by": {key: self._nested(rows) for key, rows in self.by.items()}}
                if self.by
                else {}
            ),
            **{title: table.to_dict() for title, table in self.more.items()},
        }

    def _nested(self, rows: Iterable[Row]) -> dict[str, dict[str, Any]]:
        """Rows by task and metric."""
        tasks: dict[str, dict[str, Any]] = {}
        for row in rows:
            tasks.setdefault(row.task, {})[row.metric] = self._row_dict(row)
        return tasks

    @property
    def header(self) -> tuple[str, ...]:
        """The names of the columns."""
        words = self.words
        return (words.task, "metric", words.examples, self.groups, *self.systems)

    def of_task(self, task: str) -> "Results":
        """The rows of one task alone, with the systems that did it."""
        rows = tuple(row for row in self.tasks if row.task == task)
        systems = tuple(s for s in self.systems if any(s in row.estimates for row in rows))
        return dataclasses.replace(
            self, systems=systems, tasks=rows, overall=None, totals=(), by={}, more={}
        )

    def breakdowns(self) -> list["Results"]:
        """A table for each key of `by`."""
        return [
            dataclasses.replace(
                self,
                tasks=rows,
                overall=None,
                totals=(),
                by={},
                more={},
                words=dataclasses.replace(self.words, task=key.replace("_", " ")),
            )
            for key, rows in self.by.items()
        ]

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
    metrics: Sequence[str] = BASIC,
    by: Sequence[str] = (),
) -> Results:
    """Tabulates the scores of several systems.

    Args:
      predictions: by system. Those that have a task at all have the same examples of it (by id; the
        order may differ).
      level, samples, seed: see `bootstrap.interval`.
      groups: what a prediction's group is, in the plural.
      order: of tasks; those that it does not name follow: questions, detection, segmentation,
        captions, and within those by name.
      words: what the table calls tasks and questions.
      metrics: names and groups of `metrics.METRICS`: those of whole sets (BLEU, mAP), which records
        have no scores of, are computed if they are named here; they read `Prediction`s.
      by: keys, such as "modality", by which there are further tables, see `breakdown`; also of
        `Prediction`s alone.

    Raises:
      ValueError: there is no system, a system has an id twice, or systems differ in their ids.
    """
    if not predictions:
        raise ValueError("no system to tabulate")
    systems = tuple(predictions)
    indices = {system: by_id(predictions[system]) for system in systems}
    _check_same_examples(indices)
    corpus = [metric for metric in chosen(metrics) if metric.corpus]
    sheet = Sheet(indices, corpus, level=level, samples=samples, seed=seed)
    every = sheet.examples
    kinds = {p.task: p.kind for p in every}
    tasks = np.array([p.task for p in every], object)

    def place(task: str) -> tuple[int, int, str]:
        kind = _KINDS.index(kinds[task]) if kinds[task] in _KINDS else len(_KINDS)
        return (order.index(task) if task in order else len(order)), kind, task

    # Those of whole sets take their place among the others.
    known = [m for m in METRICS if m in sheet.metrics]
    names = [*known, *(m for m in sheet.metrics if m not in METRICS)] if corpus else sheet.metrics
    rows = [
        row for task in sorted(kinds, key=place) for row in sheet.rows(task, tasks == task, names)
    ]
    questions = np.array([p.kind == "question" for p in every], bool)
    overall = sheet.rows(OVERALL, questions, ["exact_match"])
    beyond = [m for m in known if METRICS[m].group not in BASIC]
    totals = sheet.rows(OVERALL, np.ones(len(every), bool), beyond)
    main = [m for m in known if METRICS[m].main]
    broken_down = {}
    for key in by:
        labels, shown = breakdown.labels(every, key)
        of = np.array(labels, object)
        broken_down[key] = tuple(row for x in shown for row in sheet.rows(x, of == x, main))
    truncated = {name: sum(p.truncated for p in index.values()) for name, index in indices.items()}
    return Results(
        systems, tuple(rows), overall[0] if overall else None, level, groups, truncated, words,
        tuple(totals), broken_down,
    )  # fmt: skip


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
    return METRICS[metric].title if metric in METRICS else _NAMES.get(metric, metric)


def metric_top(metric: str) -> float:
    """The end of an axis from 0 for the metric's values."""
    return METRICS[metric].top if metric in METRICS else _TOPS.get(metric, 1.0)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Words to the left, numbers to the right, estimates to the left so that their values align."""
    words, counts, estimates = slice(0, 2), slice(2, 4), slice(4, None)
    parts = [c.ljust(w) for c, w in zip(cells[words], widths[words], strict=True)]
    parts += [c.rjust(w) for c, w in zip(cells[counts], widths[counts], strict=True)]
    parts += [c.ljust(w) for c, w in zip(cells[estimates], widths[estimates], strict=True)]
    return "   ".join(parts).rstrip()
