"""A comparison as a page: a table for each section, to be sorted by any column."""

import os

from medjax.evaluation import pages
from medjax.evaluation.comparison.table import Cell, Column, Comparison, Line, Section
from medjax.evaluation.comparison.text import NOTHING, difference, heading, lines_of, parameters
from medjax.evaluation.table import metric_name, metric_top
from medjax.files import write_whole


def write_page(path: str | os.PathLike[str], comparison: Comparison, *, title: str) -> None:
    """Writes the page, whole or not at all."""
    write_whole(path, render(comparison, title=title).encode("utf-8"))


def render(comparison: Comparison, *, title: str) -> str:
    """The page that `write_page` writes, as text."""
    measured = sum(not line.published for line in comparison.lines)
    count = pages.count(comparison.questions, "question")
    lead = f"{pages.count(measured, 'system')} on {count}"
    if measured < len(comparison.lines):
        lead += f", {pages.count(len(comparison.lines) - measured, 'row')} published elsewhere"
    return pages.fill(
        __package__,
        "comparison.html",
        title=pages.escape(title),
        lead=lead,
        notes="".join(f'<p class="warning">{pages.escape(note)}</p>' for note in comparison.notes),
        sections="\n".join(_section(comparison, section) for section in comparison.sections),
        note=pages.escape(comparison.note),
    )


def _section(comparison: Comparison, section: Section) -> str:
    names = ["system", "licence", "parameters", *map(heading, section.columns)]
    head = "".join(
        f'<th scope="col"><button type="button">{pages.escape(name)}</button></th>'
        for name in names
    )
    rows = "".join(
        _row(comparison, section, number, line) for number, line in lines_of(comparison, section)
    )
    return (
        f"<section><h2>{pages.escape(section.task)}</h2>"
        f'<div class="results"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
        "</div></section>"
    )


def _row(comparison: Comparison, section: Section, number: int, line: Line) -> str:
    marks = []
    if line.published:
        marks.append('<span class="mark">published</span>')
    elif line.name == comparison.reference:
        marks.append('<span class="mark">reference</span>')
    source = f'<span class="source">{pages.escape(line.source)}</span>' if line.source else ""
    size = "" if line.parameters is None else f"{line.parameters:.6g}"
    style = ' class="published"' if line.published else ""
    return (
        f'<tr{style}><th scope="row" data-value="{pages.escape(line.name)}">'
        f"{pages.escape(line.name)}{''.join(marks)}{source}</th>"
        f'<td class="fact" data-name="licence" data-value="{pages.escape(line.licence)}">'
        f"{pages.escape(line.licence or NOTHING)}</td>"
        f'<td class="fact" data-name="parameters" data-value="{size}">'
        f"{parameters(line.parameters)}</td>"
        f"{''.join(_cell(column, column.cells.get(number)) for column in section.columns)}</tr>"
    )


def _cell(column: Column, cell: Cell | None) -> str:
    name = metric_name(column.metric)
    if cell is None:
        empty = f'data-name="{pages.escape(name)}" data-value=""'
        return f'<td class="estimate" {empty}><div>{NOTHING}</div></td>'
    against = difference(cell)
    style = "difference differs" if cell.differs else "difference"
    below = f'<div class="{style}">{against}</div>' if against else ""
    return pages.estimate_cell(name, cell.estimate, metric_top(column.metric), below)
