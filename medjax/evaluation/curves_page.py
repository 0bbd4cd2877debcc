"""The curves of a run as a page: the picture, and the numbers of every evaluation."""

import base64
import os
from collections.abc import Sequence

from medjax.evaluation import pages
from medjax.evaluation.curves import Curves, figure_name
from medjax.evaluation.curves_picture import png
from medjax.files import write_whole


def write_page(path: str | os.PathLike[str], stages: Sequence[Curves], *, title: str) -> None:
    """Writes the page, whole or not at all.

    Raises:
      UserError: matplotlib is missing.
    """
    write_whole(path, render(stages, title=title).encode("utf-8"))


def render(stages: Sequence[Curves], *, title: str) -> str:
    """The page that `write_page` writes, as text."""
    picture = base64.b64encode(png(stages)).decode()
    return pages.fill(
        __package__,
        "curves.html",
        title=pages.escape(title),
        picture=f"data:image/png;base64,{picture}",
        stages="".join(map(_stage, stages)),
    )


def _stage(curves: Curves) -> str:
    names = list(dict.fromkeys(name for row in curves.evaluations for name in row))
    names.sort(key=lambda name: ("step", "epoch", "train loss", "loss", name).index(name))
    head = "".join(f'<th scope="col" class="number">{pages.escape(_title(n))}</th>' for n in names)
    body = "".join(_row(curves, place, names) for place in range(len(curves.evaluations)))
    table = (
        f'<div class="results"><table><thead><tr>{head}<th scope="col"></th></tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
    return (
        f"<h2>{pages.escape(curves.stage)}</h2>"
        f'<p class="note">{pages.escape(curves.told())}</p>'
        + (table if curves.evaluations else '<p class="note">Nothing was validated.</p>')
    )


def _row(curves: Curves, place: int, names: Sequence[str]) -> str:
    row, marks = curves.evaluations[place], []
    if place == curves.best:
        marks.append("best")
    if curves.risen is not None and place > curves.risen:
        marks.append("overfitting")
    if curves.stopped and place == len(curves.evaluations) - 1:
        marks.append("stopped early")
    cells = "".join(
        f'<td class="number" data-name="{pages.escape(_title(name))}">'
        + (f"{row[name]:,.5g}" if name in row else "–")
        + "</td>"
        for name in names
    )
    classes = " ".join(mark.split()[0] for mark in marks)
    return f'<tr class="{classes}">{cells}<td>{", ".join(marks)}</td></tr>'


def _title(name: str) -> str:
    return name if name in ("step", "epoch", "train loss") else figure_name(name)
