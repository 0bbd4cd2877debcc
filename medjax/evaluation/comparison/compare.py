"""Systems on the questions that all of them answered, each beside one of them, the reference.

Estimates and paired differences are `table.results`'s: all systems meet the same draws of groups.
Published figures stand beside them, and are compared with nothing: their questions may be others.
"""

import collections
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from medjax.data.example import SOURCE
from medjax.errors import UserError
from medjax.evaluation.comparison.published import Published
from medjax.evaluation.comparison.systems import System
from medjax.evaluation.comparison.table import Cell, Column, Comparison, Line, Section
from medjax.evaluation.metrics import BASIC, MAIN_METRIC, METRICS, check
from medjax.evaluation.predictions import Prediction, by_id
from medjax.evaluation.table import Estimate, Row, metric_name, metric_top, results

# What all examples of a kind are called together.
_ALL = {
    "question": "all questions", "detection": "all detection",
    "segmentation": "all segmentation", "caption": "all captions",
}  # fmt: skip


def compare(
    systems: Sequence[System],
    published: Sequence[Published] = (),
    *,
    reference: str = "",
    tasks: Sequence[str] = (),
    metrics: Sequence[str] = (),
    level: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compares systems on the questions that all of them answered.

    Args:
      systems: of distinct names.
      published: figures that stand beside them.
      reference: which system the others are compared with; the first by default.
      tasks: the sections wanted, by name; all by default.
      metrics: those wanted, by name or as people write them; all by default.
      level, samples, seed: see `bootstrap.interval`.

    Raises:
      UserError: there is no such reference, task or metric, or no question that all answered.
    """
    names = [system.name for system in systems]
    reference = reference or names[0]
    if reference not in names:
        raise UserError(f"no system is named {reference!r}: {', '.join(names)}")
    kept, notes = _shared(_with_bare_ids(systems), reference)
    # Of a whole set (BLEU, mAP): no answer has a score of its own, so they are computed here.
    named = [m for s in systems for m in s.metrics if m in METRICS and METRICS[m].corpus]
    check(named or BASIC)
    settings = {"level": level, "samples": samples, "seed": seed}
    sections = _sections(_rows(_of_several_tasks(kept), named, **settings), names, _ALL)
    sections += _sections(_rows(kept, named, **settings), names)
    lines = [Line(s.name, s.licence, s.parameters, s.source, False) for s in systems]
    lines += [Line(p.name, p.licence, p.parameters, p.source, True) for p in published]
    sections = _with_published(sections, published, len(systems))
    return Comparison(
        lines=tuple(lines),
        reference=reference,
        level=level,
        groups=next(s.groups for s in systems if s.name == reference),
        questions=len(kept[reference]),
        sections=tuple(_wanted(sections, tasks, metrics)),
        notes=tuple(notes),
    )


def _with_bare_ids(systems: Sequence[System]) -> list[System]:
    """The systems, their ids without names of sources where they were not all asked the same ones.

    Where a run has several sources, ids begin with their names (`setup.Joined`), "medpix/12", and
    the same question is "12" in a run of one source and in what tools/score.py writes. An id that
    two of a system's sources have keeps their names.
    """
    sources = [{p.extra.get(SOURCE) for p in system.predictions} for system in systems]
    if all(names == sources[0] for names in sources):
        return list(systems)
    return [
        dataclasses.replace(system, predictions=_bare(system.predictions)) for system in systems
    ]


def _bare(predictions: Sequence[Prediction]) -> tuple[Prediction, ...]:
    bare = [p.id.removeprefix(f"{p.extra.get(SOURCE)}/") for p in predictions]
    count = collections.Counter(bare)
    return tuple(
        dataclasses.replace(p, id=id) if count[id] == 1 else p
        for p, id in zip(predictions, bare, strict=True)
    )


def _shared(
    systems: Sequence[System], reference: str
) -> tuple[dict[str, list[Prediction]], list[str]]:
    """The answers to what all systems were asked, the reference's last, and what was left out."""
    try:
        indices = {system.name: by_id(system.predictions) for system in systems}
    except ValueError as error:
        raise UserError(f"a system's predictions cannot be told apart: {error}") from error
    first = indices[reference]
    common = [id for id in first if all(id in index for index in indices.values())]
    notes = []
    if any(len(index) != len(common) for index in indices.values()):
        counts = ", ".join(f"{len(index)} by {name}" for name, index in indices.items())
        notes.append(
            f"Compared on the {len(common)} questions that all systems answered or were counted as "
            f"silent about; rows are {counts}."
        )
    truths = {
        id: {" ".join(index[id].truth.split()) for index in indices.values()} for id in common
    }
    if other := [id for id in common if len(truths[id]) > 1]:
        notes.append(
            f"{len(other)} of them have another true answer for some systems, such as "
            f"{other[0]!r}, and are left out."
        )
        common = [id for id in common if len(truths[id]) == 1]
    if not common:
        raise UserError(
            "there is no question that all systems answered; do their ids name the same questions? "
            + "; ".join(f"{name}: {next(iter(index), 'none')!r}" for name, index in indices.items())
        )
    regrouped = {
        name: sum(index[id].group != first[id].group for id in common)
        for name, index in indices.items()
    }
    if any(regrouped.values()):
        notes.append(
            f"Groups are as {reference} has them; other ones have "
            + ", ".join(f"{name} ({count} questions)" for name, count in regrouped.items() if count)
            + "."
        )
    order = sorted(indices, key=lambda name: name == reference)
    kept = {
        name: [
            dataclasses.replace(indices[name][id], group=first[id].group, task=first[id].task)
            for id in common
        ]
        for name in order
    }
    return kept, notes


def _of_several_tasks(answers: Mapping[str, Sequence[Prediction]]) -> dict[str, list[Prediction]]:
    """The answers of the kinds that have several tasks, with their kind as the only task."""
    tasks: dict[str, set[str]] = {}
    for prediction in next(iter(answers.values())):
        tasks.setdefault(prediction.kind, set()).add(prediction.task)
    return {
        name: [dataclasses.replace(p, task=p.kind) for p in predictions if len(tasks[p.kind]) > 1]
        for name, predictions in answers.items()
    }


def _rows(
    answers: Mapping[str, Sequence[Prediction]], of_sets: Sequence[str], **settings: Any
) -> list[Row]:
    """Estimates of every metric for the systems that have it, and differences from the last."""
    having: dict[str, tuple[str, ...]] = {}
    for name, predictions in answers.items():
        for metric in dict.fromkeys(metric for p in predictions for metric in p.scores):
            having[metric] = (*having.get(metric, ()), name)
    rows: list[Row] = []
    for names in dict.fromkeys(having.values()):
        metrics = {metric for metric, of in having.items() if of == names}
        # A metric counts where all of these systems have it.
        everywhere = [
            metrics.intersection(*(p.scores.keys() for p in same))
            for same in zip(*(answers[name] for name in names), strict=True)
        ]
        scored = {
            name: [
                dataclasses.replace(p, scores={m: v for m, v in p.scores.items() if m in there})
                for p, there in zip(answers[name], everywhere, strict=True)
            ]
            for name in names
        }
        # Without the reference, the last of them is nothing to compare with.
        with_reference = names[-1] == list(answers)[-1]
        rows += [
            row if with_reference else dataclasses.replace(row, differences={})
            for row in results(scored, **settings).tasks
        ]
    if of_sets:
        bare = {n: [dataclasses.replace(p, scores={}) for p in of] for n, of in answers.items()}
        rows += results(bare, metrics=of_sets, **settings).tasks
    main = MAIN_METRIC.values()
    order = [*METRICS, *having]
    place = {m: (m not in main, i) for i, m in reversed(list(enumerate(order)))}
    first = {row.task: i for i, row in reversed(list(enumerate(rows)))}
    return sorted(rows, key=lambda row: (first[row.task], place[row.metric]))


def _sections(
    rows: Sequence[Row], names: Sequence[str], titles: Mapping[str, str] | None = None
) -> list[Section]:
    """Rows as tables, one a task; differences turned about, from each system to the reference."""
    columns: dict[str, list[Column]] = {}
    for row in rows:
        cells = {}
        for number, name in enumerate(names):
            if name in row.estimates:
                against = row.differences.get(name)
                # Taken from 0, so that a 0 has no minus.
                turned = against and Estimate(
                    0.0 - against.value, 0.0 - against.high, 0.0 - against.low
                )
                cells[number] = Cell(row.estimates[name], turned)
        columns.setdefault(row.task, []).append(
            Column(row.metric, row.questions, row.groups, cells)
        )
    return [Section((titles or {}).get(task, task), tuple(of)) for task, of in columns.items()]


def _with_published(
    sections: Sequence[Section], published: Sequence[Published], first: int
) -> list[Section]:
    """The sections with published figures in them, whose lines are numbered from `first` on."""
    tables = {
        section.task: {column.metric: column for column in section.columns} for section in sections
    }
    spelled = {
        _spelling(spelling): metric
        for table in tables.values()
        for metric in table
        for spelling in (metric, metric_name(metric))
    }
    for number, entry in enumerate(published, first):
        table = tables.setdefault(entry.task, {}) if entry.task else next(iter(tables.values()))
        for spelling, estimate in entry.values.items():
            metric = spelled.get(_spelling(spelling), spelling)
            if metric in spelled.values() and estimate.value > metric_top(metric):
                raise UserError(
                    f"published {entry.name}: {spelling} is {estimate.value:g}, but goes up to "
                    f"{metric_top(metric):g}; write a fraction, not per cent"
                )
            column = table.get(metric, Column(metric, 0, 0, {}))
            cells = {**column.cells, number: Cell(estimate)}
            table[metric] = dataclasses.replace(column, cells=cells)
    return [Section(task, tuple(table.values())) for task, table in tables.items()]


def _wanted(
    sections: Sequence[Section], tasks: Sequence[str], metrics: Sequence[str]
) -> list[Section]:
    """Those sections and columns that were asked for."""
    titles = [section.task for section in sections]
    if unknown := [task for task in tasks if task not in titles]:
        raise UserError(f"no task is named {unknown[0]!r}: {', '.join(titles)}")
    chosen = [section for section in sections if not tasks or section.task in tasks]
    if not metrics:
        return chosen
    names = dict.fromkeys(column.metric for section in chosen for column in section.columns)
    known = {_spelling(text): name for name in names for text in (name, metric_name(name))}
    if unknown := [metric for metric in metrics if _spelling(metric) not in known]:
        raise UserError(f"no metric is named {unknown[0]!r}: {', '.join(names)}")
    kept = {known[_spelling(metric)] for metric in metrics}
    cut = [
        Section(section.task, tuple(c for c in section.columns if c.metric in kept))
        for section in chosen
    ]
    return [section for section in cut if section.columns]


def _spelling(metric: str) -> str:
    """The letters and digits alone: "BLEU-4", "bleu_4" and "Bleu 4" are one metric."""
    return re.sub(r"[\W_]", "", metric.casefold())
