"""The table of results as a part of a page, and everything else that pages are made of."""

import math

from medjax.evaluation.table import Estimate, Results, Row, metric_name, metric_top
from medjax.pages import count, data_uri, escape, fill, json_block, numbers, options

__all__ = [
    "count", "data_uri", "escape", "estimate_cell", "fill", "json_block", "numbers", "options",
    "results_table",
]  # fmt: skip


def results_table(summary: Results, *, alone: bool = False, notes: bool = True) -> str:
    """The table of results; each estimate with a picture of its interval; breakdowns follow.

    Args:
      alone: whether it is of one task, whose name, like the note to all numbers, is elsewhere.
      notes: whether to say below it how to read it.
    """
    head = "".join(
        f'<th scope="col" class="{"number" if 2 <= i < 4 else ""}">{escape(name)}</th>'
        for i, name in enumerate(summary.header)
        if i > 0 or not alone
    )
    body = "".join(_results_row(summary, row, alone) for row in summary.rows)
    lines = [*([] if alone else [summary.note]), *summary.difference_lines()]
    said = f'<p class="note">{"<br>".join(map(escape, lines))}</p>' if lines and notes else ""
    parts = "".join(
        f'<details class="by"><summary>By {escape(part.words.task)}</summary>'
        f"{results_table(part, notes=False)}</details>"
        for part in summary.breakdowns()
    )
    parts += "".join(
        f"<h2>{escape(title.capitalize())}</h2>{results_table(table)}"
        for title, table in summary.more.items()
    )
    return (
        f'<div class="results"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        f"</div>{said}{parts}"
    )


def _results_row(summary: Results, row: Row, alone: bool) -> str:
    metric = escape(metric_name(row.metric))
    heads = f'<th scope="row">{escape(row.task)}</th><td>{metric}</td>'
    if alone:
        heads = f'<th scope="row">{metric}</th>'
    estimates = "".join(
        estimate_cell(system, row.estimates[system], metric_top(row.metric))
        if system in row.estimates
        else f'<td class="estimate" data-name="{escape(system)}">–</td>'
        for system in summary.systems
    )
    return (
        f'<tr class="{"overall" if row is summary.overall else ""}">{heads}'
        f'<td class="number" data-name="{escape(summary.words.examples)}">{row.questions}</td>'
        f'<td class="number" data-name="{escape(summary.groups)}">{row.groups}</td>'
        f"{estimates}</tr>"
    )


def estimate_cell(name: str, estimate: Estimate, top: float, below: str = "") -> str:
    """A cell of an estimate, with a picture of its interval.

    Args:
      name: of its column, for narrow windows, where it stands alone.
      top: where its axis ends, which begins at 0.
      below: what else is in it, as HTML.
    """
    value, low, high = (
        round(100 * min(max(n / top, 0.0), 1.0), 1)
        for n in (estimate.value, estimate.low, estimate.high)
    )
    words, line = "", ""
    if not math.isnan(estimate.low):
        words = f"<span>{estimate.low:.2f}–{estimate.high:.2f}</span>"
        line = f'<path class="range" d="M{low} 4H{high}"/>'
    return (
        f'<td class="estimate" data-name="{escape(name)}" data-value="{estimate.value:.6g}">'
        f"<div>{estimate.value:.2f}{words}</div>"
        '<svg class="whisker" viewBox="-2 0 104 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<path class="track" d="M0 4H100"/>{line}<path class="dot" d="M{value} 4h0"/>'
        f"</svg>{below}</td>"
    )
