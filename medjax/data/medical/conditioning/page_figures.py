"""The figures of steps as parts of the page: bars, the histogram of lengths, tables."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from medjax.data.medical.conditioning.lengths import MARKS
from medjax.data.medical.record import SPLITS
from medjax.pages import escape

_LISTED = 40  # items of a list that are shown; conditioning.json has them all
_BIN, _PLOT, _TOP, _FOOT = 66, 150, 42, 46  # of the histogram, in units of its drawing


def of_step(name: str, figures: Mapping[str, Any]) -> str:
    """A step's figures as HTML; `name` is its report's."""
    return _OF_STEP.get(name, _any)(figures) if figures else ""


def bars(counts: Mapping[str, int], *, style: str = "") -> str:
    """Counts with their names, as bars of the greatest one's length."""
    most = max(counts.values(), default=0)
    rows = "".join(
        f'<li><span class="name">{escape(name)}</span><span class="count">{count:,}</span>'
        f'<span class="track"><i style="width:{100 * count / most if most else 0:.1f}%"></i></span>'
        "</li>"
        for name, count in sorted(counts.items(), key=lambda item: -item[1])
    )
    return f'<ul class="bars {style}">{rows}</ul>' if rows else ""


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table whose first column names its rows; numbers stand to the right."""
    titles = "".join(
        f'<th scope="col"{_number(rows[0][i]) if rows else ""}>{escape(name)}</th>'
        for i, name in enumerate(head)
    )
    body = "".join(
        f'<tr><th scope="row">{escape(str(first))}</th>'
        + "".join(
            f'<td{_number(value)} data-name="{escape(name)}">{_said(value)}</td>'
            for name, value in zip(head[1:], rest, strict=True)
        )
        + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="results"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def _number(value: object) -> str:
    return ' class="number"' if isinstance(value, int | float) else ""


def _said(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) else escape(str(value))


def _lengths(figures: Mapping[str, Any]) -> str:
    bins = figures["histogram"]
    if not bins:
        return ""
    rows = [
        (task, of["answers"], of["median"], of["longest"], of["dropped"])
        for task, of in figures["tasks"].items()
    ]
    longer = ", ".join(
        f"{count:,} longer than {mark}" for mark, count in figures["longer_than"].items()
    )
    return (
        f"<h3>Lengths of answers, in {escape(figures['counted'])}</h3>"
        f'<div class="plot">{_histogram(bins, figures["limit"])}</div>'
        f'<p class="note">All answers before this step: {escape(longer)}. The longest has '
        f"{figures['longest']:,}.</p>"
        + table(("task", "answers", "median length", "longest", "dropped"), rows)
    )


def _histogram(bins: Sequence[Mapping[str, int]], limit: int) -> str:
    """Each bin is twice as wide as the one before it, so lengths lie on a logarithmic axis."""
    width, base = _BIN * len(bins), _TOP + _PLOT
    most = max(of_bin["answers"] for of_bin in bins)
    parts = []
    for i, of_bin in enumerate(bins):
        count, middle = of_bin["answers"], (i + 0.5) * _BIN
        height = _PLOT * count / most if most else 0.0
        style = "over" if of_bin["from"] > limit else "bar"
        low, high = of_bin["from"], of_bin["to"]
        name = str(high) if low >= high else f"{low}–{high}"
        parts.append(
            f'<rect class="{style}" x="{i * _BIN + 3}" y="{base - height:.1f}" '
            f'width="{_BIN - 6}" height="{height:.1f}"/>'
            f'<text x="{middle}" y="{base + 17}">{name}</text>'
        )
        if count:
            parts.append(f'<text x="{middle}" y="{base - height - 5:.1f}">{count:,}</text>')
    for mark in sorted({*MARKS, limit}):
        x = (math.log2(mark) + 1) * _BIN if mark else 0
        if x <= width:
            style = "limit" if mark == limit else "mark"
            parts.append(
                f'<path class="{style}" d="M{x:.1f} 22V{base}"/>'
                f'<text class="{style}" x="{x:.1f}" y="15">{mark}</text>'
            )
    return (
        f'<svg viewBox="-24 0 {width + 48} {base + _FOOT - 22}" role="img" '
        f'aria-label="histogram of the lengths of answers">'
        f'<path class="axis" d="M0 {base}H{width}"/>{"".join(parts)}</svg>'
    )


def _split(figures: Mapping[str, Any]) -> str:
    names = ("patients", "images", "questions", "diagnoses")
    rows = [(part, *(figures["parts"][part][name] for name in names)) for part in SPLITS]
    several = figures.get("patients_in_several_parts", [])
    note = f'<p class="note">In several parts: {_list(several)}</p>' if several else ""
    return table(("part", *names), rows) + note


def _unseen(figures: Mapping[str, Any]) -> str:
    rows, lists = [], []
    for condition, parts in figures.items():
        for part in SPLITS[1:]:
            of = parts[part]
            if not of["values"]:
                continue
            rows.append(
                (
                    f"{condition}, {part}",
                    of["values"],
                    of["unseen_values"],
                    of["images"],
                    of["unseen_images"],
                    of["unseen_questions"],
                )
            )
            if of["unseen"]:
                shown = "".join(
                    f"<li>{escape(item[condition])} <span>{item['images']:,}</span></li>"
                    for item in of["unseen"]
                )
                lists.append(
                    f"<details open><summary>Never in training: {escape(condition)} of {part} "
                    f'(with images)</summary><ul class="listed">{shown}</ul></details>'
                )
    if not rows:
        return '<p class="note">No image of validation and test has a diagnosis or category.</p>'
    head = ("", "values", "unseen values", "images", "unseen images", "unseen questions")
    return table(head, rows) + "".join(lists)


def _any(figures: Mapping[str, Any]) -> str:
    """Figures of which nothing more is known than that they are ready for JSON."""
    parts, plain = [], []
    for name, value in figures.items():
        title = escape(name[:1].upper() + name[1:].replace("_", " "))
        if isinstance(value, Mapping):
            if not value:
                continue
            if all(type(of) is int for of in value.values()):
                parts.append(f"<h3>{title}</h3>{bars(dict(list(value.items())[:_LISTED]))}")
            else:
                parts.append(f'<h3>{title}</h3><div class="nested">{_any(value)}</div>')
        elif isinstance(value, list | tuple):
            parts.append(f'<h3>{title}</h3><p class="note">{_list(value)}</p>')
        else:
            plain.append(f"<div><dt>{title}</dt><dd>{_said(value)}</dd></div>")
    return (f"<dl>{''.join(plain)}</dl>" if plain else "") + "".join(parts)


def _list(items: Sequence[Any]) -> str:
    shown = [
        ", ".join(f"{key} {value}" for key, value in item.items())
        if isinstance(item, Mapping)
        else str(item)
        for item in items[:_LISTED]
    ]
    more = f" … and {len(items) - _LISTED:,} more" if len(items) > _LISTED else ""
    return escape("; ".join(shown) + more) if items else "none"


_OF_STEP = {"max_answer_tokens": _lengths, "split": _split, "unseen": _unseen}
