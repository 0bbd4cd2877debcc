"""A comparison as text: how its numbers are written, and Markdown."""

import math
from collections.abc import Sequence

from medjax.evaluation.comparison.table import Cell, Column, Comparison, Line, Section
from medjax.evaluation.table import metric_name

NOTHING = "–"


def parameters(number: float | None) -> str:
    """For example "2.9B"."""
    if number is None:
        return NOTHING
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:g}"


def difference(cell: Cell) -> str:
    """For example "+0.05 [0.01, 0.09] *"; empty where there is none."""
    found = cell.difference
    if found is None:
        return ""
    interval = "" if math.isnan(found.low) else f" [{found.low:+.2f}, {found.high:+.2f}]"
    return f"{found.value:+.2f}{interval}{' *' if cell.differs else ''}"


def heading(column: Column) -> str:
    """The metric, and how many questions it is over."""
    name = metric_name(column.metric)
    return f"{name} (n = {column.questions:,})" if column.questions else name


def lines_of(comparison: Comparison, section: Section) -> list[tuple[int, Line]]:
    """The lines that have anything in a section, with their numbers."""
    there = {number for column in section.columns for number in column.cells}
    return [(n, line) for n, line in enumerate(comparison.lines) if n in there]


def to_markdown(comparison: Comparison) -> str:
    """A table of estimates for each section, and one of differences."""
    parts = [_quoted(note) for note in comparison.notes]
    for section in comparison.sections:
        lines = lines_of(comparison, section)
        head = ["system", "licence", "parameters", *map(heading, section.columns)]
        rows = [
            [_name(line), line.licence or NOTHING, parameters(line.parameters)]
            + [_estimate(column.cells.get(n)) for column in section.columns]
            for n, line in lines
        ]
        parts += [f"## {_quoted(section.task)}", _table(head, rows, words=2)]
        compared = [c for c in section.columns if any(x.difference for x in c.cells.values())]
        rows = [
            [_name(line), *(_difference(column.cells.get(n)) for column in compared)]
            for n, line in lines
            if any(n in column.cells and column.cells[n].difference for column in compared)
        ]
        if rows:
            head = [f"minus {comparison.reference}", *(metric_name(c.metric) for c in compared)]
            parts.append(_table(head, rows, words=1))
    parts.append(_quoted(comparison.note))
    sources = [f"- {_name(line)}: {line.source}" for line in comparison.lines if line.source]
    if sources:
        parts.append("\n".join(["Sources:", "", *map(_quoted, sources)]))
    return "\n\n".join(parts)


def _name(line: Line) -> str:
    return f"{line.name} (published)" if line.published else line.name


def _estimate(cell: Cell | None) -> str:
    return NOTHING if cell is None else str(cell.estimate)


def _difference(cell: Cell | None) -> str:
    return NOTHING if cell is None else difference(cell) or NOTHING


def _quoted(text: str) -> str:
    return " ".join(text.split()).replace("<", "&lt;")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> str:
    """`words` columns to the left, the others to the right."""
    ruler = ["---"] * words + ["---:"] * (len(head) - words)
    quoted = [
        [
            _quoted(cell.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*"))
            for cell in row
        ]
        for row in (head, *rows)
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in (quoted[0], ruler, *quoted[1:]))
