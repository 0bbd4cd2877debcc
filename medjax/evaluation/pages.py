"""What medjax's pages are made of: a page needs nothing but itself, and trusts no data.

A page is a template beside its module: `page.css` is its style, images are data URIs, and a content
security policy lets no other script run than the template's own. Everything that comes from data
goes through `escape`, or through `json_block` where a script makes the page of it.
"""

import base64
import hashlib
import html
import importlib.resources
import json
import math
import re
import string
from collections.abc import Iterable

import numpy as np
from jaxtyping import UInt8

from medjax.evaluation.picture import GUESS_COLOUR, TRUTH_COLOUR
from medjax.evaluation.table import Estimate, Results, Row, metric_name, metric_top
from medjax.evaluation.thumbnails import thumbnail


class _Page(string.Template):
    """A template whose placeholders look like nothing in HTML, CSS or JavaScript."""

    delimiter = "%%"


def fill(package: str, name: str, **values: object) -> str:
    """A template with its values, the shared style and the checksum of its script.

    Args:
      package, name: where the template is, as `importlib.resources` finds it.
      values: of its placeholders, already escaped.
    """
    template = (importlib.resources.files(package) / name).read_text("utf-8")
    style = (importlib.resources.files(__package__) / "page.css").read_text("utf-8")
    script = re.search(r"<script>(.*?)</script>", template, re.DOTALL)
    assert script is not None, f"{name} has no script"
    assert _Page.delimiter not in script[1], f"{name}: its script is filled in after its checksum"
    digest = hashlib.sha256(script[1].encode("utf-8")).digest()
    return _Page(template).substitute(
        style=_Page(style).substitute(truth_colour=TRUTH_COLOUR, guess_colour=GUESS_COLOUR),
        script_hash=f"sha256-{base64.b64encode(digest).decode()}",
        **values,
    )


def results_table(summary: Results, *, alone: bool = False) -> str:
    """The table of results; each estimate with a picture of its interval.

    Args:
      alone: whether it is of one task, whose name, like the note to all numbers, is elsewhere.
    """
    head = "".join(
        f'<th scope="col" class="{"number" if 2 <= i < 4 else ""}">{escape(name)}</th>'
        for i, name in enumerate(summary.header)
        if i > 0 or not alone
    )
    body = "".join(_results_row(summary, row, alone) for row in summary.rows)
    lines = [*([] if alone else [summary.note]), *summary.difference_lines()]
    notes = f'<p class="note">{"<br>".join(map(escape, lines))}</p>' if lines else ""
    return (
        f'<div class="results"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        f"</div>{notes}"
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
        round(100 * min(n / top, 1.0), 1) for n in (estimate.value, estimate.low, estimate.high)
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


def options(values: Iterable[tuple[object, str]], selected: object = None) -> str:
    """The options of a choice, given as (value, name)."""
    return "".join(
        f'<option value="{escape(str(value))}"{" selected" if value == selected else ""}>'
        f"{escape(name)}</option>"
        for value, name in values
    )


def data_uri(pixels: UInt8[np.ndarray, "H W 3"], max_side: int) -> tuple[str, int, int]:
    """A `thumbnail` as a data URI, with the width and height that it has."""
    made = thumbnail(pixels, max_side)
    return made.uri, made.width, made.height


def json_block(name: str, value: object) -> str:
    """Data for a page's script, which reads them by the element's id.

    A block of this type is no script, so that the content security policy allows it; nothing in it
    can end it, as "<" is written as JSON writes it when it must.

    Args:
      name: the element's id.
      value: whatever JSON can say; lone surrogates become "?".
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    text = text.encode("utf-8", "replace").decode("utf-8")
    return f'<script type="application/json" id="{name}">{text}</script>'


def numbers(values: Iterable[float | None]) -> str:
    """Numbers for a script to read; "-" for what is not known."""
    return " ".join("-" if value is None else f"{value:.6g}" for value in values)


def count(number: int, noun: str) -> str:
    """A number of things, such as "1,200 questions"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def escape(text: str) -> str:
    """Untrusted text, safe between tags and in quoted attributes; lone surrogates become "?"."""
    return html.escape(text.encode("utf-8", "replace").decode("utf-8"), quote=True)
