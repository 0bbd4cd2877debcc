"""The page of all directions: their scores, and samples with what each system made of them.

Like the page of PaliGemma's predictions (`evaluation.html`) it needs nothing but itself, and each
picture is embedded once, however many directions it is given in.
"""

import os
from collections.abc import Mapping, Sequence

import numpy as np

from medjax.evaluation import pages
from medjax.evaluation.fourm.cases import Exhibit, Legend, Section, Shown
from medjax.evaluation.fourm.scores import MAIN_METRIC, Direction
from medjax.evaluation.table import Results, metric_name
from medjax.files import write_whole


def write_page(
    path: str | os.PathLike[str],
    sections: Sequence[Section],
    summary: Results,
    *,
    title: str = "Directions",
    legend: Legend = (),
    max_side: int = 256,
) -> None:
    """Writes the page, whole or not at all.

    Args:
      path: of the HTML file.
      sections: one for each direction.
      summary: the scores of all samples.
      title: of the page.
      legend: what colours of masks stand for.
      max_side: pictures are embedded with at most this many pixels a side.
    """
    write_whole(
        path,
        render(sections, summary, title=title, legend=legend, max_side=max_side).encode("utf-8"),
    )


def render(
    sections: Sequence[Section],
    summary: Results,
    *,
    title: str = "Directions",
    legend: Legend = (),
    max_side: int = 256,
) -> str:
    """The page that `write_page` writes, as text."""
    pictures = _Pictures(max_side)
    systems = summary.systems
    parts = [
        _section(number, section, summary, pictures) for number, section in enumerate(sections)
    ]
    groups = sorted({exhibit.group for section in sections for exhibit in section.exhibits})
    return pages.fill(
        __package__,
        "directions.html",
        title=pages.escape(title),
        lead=pages.count(len(sections), "direction") + _legend(legend),
        contents=_contents(sections, summary),
        note=pages.escape(summary.note),
        directions=pages.options((n, arrow(s.direction)) for n, s in enumerate(sections)),
        groups=pages.options((group, group) for group in groups),
        groups_name=pages.escape(summary.groups),
        systems=pages.options(enumerate(systems), selected=len(systems) - 1),
        systems_hidden=" hidden" if len(systems) == 1 else "",
        images="\n".join(pictures.embedded),
        sections="\n".join(parts),
    )


def _legend(legend: Legend) -> str:
    """Colours and what they stand for; drawn as pictures are, so that no style is needed."""
    return "".join(
        f'; <svg width="12" height="12" aria-hidden="true"><rect width="12" height="12" '
        f'fill="rgb{colour}"/></svg> {pages.escape(name)}'
        for name, colour in legend
    )


def arrow(direction: Direction) -> str:
    """A direction for people to read."""
    return f"{' + '.join(direction.given)} → {direction.target}"


class _Pictures:
    """The pictures of a page; equal ones are one."""

    def __init__(self, max_side: int):
        self.embedded: list[str] = []
        self._max_side = max_side
        self._known: dict[tuple[bytes, tuple[int, ...]], tuple[int, int, int]] = {}

    def use(self, pixels: np.ndarray, label: str) -> str:
        """A reference to a picture, by which it is drawn."""
        key = (pixels.tobytes(), pixels.shape)
        if key not in self._known:
            uri, width, height = pages.data_uri(pixels, self._max_side)
            number = len(self.embedded)
            self.embedded.append(
                f'<image id="image{number}" width="{width}" height="{height}" href="{uri}"/>'
            )
            self._known[key] = number, width, height
        number, width, height = self._known[key]
        return (
            '<button class="picture" aria-expanded="false" title="Enlarge">'
            f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{pages.escape(label)}">'
            f'<use href="#image{number}"/></svg></button>'
        )


def _contents(sections: Sequence[Section], summary: Results) -> str:
    head = "".join(
        f'<th scope="col">{pages.escape(name)}</th>'
        for name in ("direction", "metric", *summary.systems)
    )
    entries = "".join(_entry(n, section, summary) for n, section in enumerate(sections))
    return f"<thead><tr>{head}</tr></thead><tbody>{entries}</tbody>"


def _entry(number: int, section: Section, summary: Results) -> str:
    """A line of the contents: the direction and its main score by every system."""
    rows = summary.of_task(str(section.direction)).rows
    main = MAIN_METRIC[section.content]
    estimates = next((row.estimates for row in rows if row.metric == main), {})
    scores = "".join(
        "<td>" + (f"{estimates[system].value:.2f}" if system in estimates else "–") + "</td>"
        for system in summary.systems
    )
    return (
        f'<tr><th scope="row"><a href="#direction{number}">'
        f"{pages.escape(arrow(section.direction))}</a></th>"
        f"<td>{pages.escape(metric_name(main))}</td>{scores}</tr>"
    )


def _section(number: int, section: Section, summary: Results, pictures: _Pictures) -> str:
    """A direction: its table and its samples."""
    rows = "\n".join(
        _row(number, exhibit, section, summary.systems, pictures) for exhibit in section.exhibits
    )
    table = pages.results_table(summary.of_task(str(section.direction)), alone=True)
    few = ""
    if len(section.exhibits) < section.count:
        few = f", of which {len(section.exhibits)} are shown"
    return (
        f'<section id="direction{number}" data-number="{number}">'
        f"<h2>{pages.escape(arrow(section.direction))}</h2>"
        f'<p class="lead">{pages.count(section.count, "sample")}{few}</p>{table}'
        f'<ol class="rows">\n{rows}\n</ol></section>'
    )


def _row(
    number: int,
    exhibit: Exhibit,
    section: Section,
    systems: Sequence[str],
    pictures: _Pictures,
) -> str:
    """One sample: what was given, what each system made, what is true."""
    main = MAIN_METRIC[section.content]
    figures = [_figure("given", name, shown, {}, pictures) for name, shown in exhibit.given.items()]
    figures += [
        _figure(f"made by{systems.index(system)}", system, shown, exhibit.scores[system], pictures)
        for system, shown in sorted(exhibit.made.items(), key=lambda pair: systems.index(pair[0]))
    ]
    figures.append(_figure("true", f"true {section.direction.target}", exhibit.true, {}, pictures))
    of_main = [exhibit.scores.get(system, {}).get(main) for system in systems]
    place = f"direction{number}-{exhibit.number + 1}"
    return (
        f'<li class="row" id="{place}" data-id="{pages.escape(exhibit.id)}" '
        f'data-group="{pages.escape(exhibit.group)}" data-scores="{pages.numbers(of_main)}">'
        f'<div class="head"><a href="#{place}">{exhibit.number + 1}</a>'
        f"<span>{pages.escape(exhibit.group)}</span><code>{pages.escape(exhibit.id)}</code></div>"
        f'<div class="strip">{"".join(figures)}</div></li>'
    )


def _figure(
    style: str, name: str, shown: Shown, scores: Mapping[str, float], pictures: _Pictures
) -> str:
    """A value with its name above and its scores below."""
    if isinstance(shown, str):
        words = pages.escape(shown) if shown.strip() else "<em>nothing</em>"
        body = f'<p class="said" dir="auto">{words}</p>'
    else:
        body = pictures.use(shown, name)
    marks = "".join(
        f"<span>{pages.escape(_short(metric))} <b>{value:.2f}</b></span>"
        for metric, value in scores.items()
    )
    marks = f'<div class="marks">{marks}</div>' if marks else ""
    kind = "words" if isinstance(shown, str) else "image"
    return (
        f'<figure class="{style} {kind}"><figcaption>{pages.escape(name)}</figcaption>'
        f"{body}{marks}</figure>"
    )


def _short(metric: str) -> str:
    """A metric's name where there is little room: of a class's Dice, the class."""
    return metric.removeprefix("dice/") if metric.startswith("dice/") else metric_name(metric)
