"""What conditioning did: `conditioning.json` for machines, `conditioning.html` for people."""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from medjax.data.faults import BadExample
from medjax.data.medical.conditioning import folders, page_figures
from medjax.data.medical.conditioning.run import Conditioned, Size
from medjax.data.medical.conditioning.splits import parts_of
from medjax.data.medical.conditioning.step import Case, Report
from medjax.data.medical.conditioning.words import table
from medjax.data.medical.record import Record, shown
from medjax.files import write_whole
from medjax.pages import count, data_uri, escape, fill

FILES = ("conditioning.json", "conditioning.html")
FORMAT = 1  # of conditioning.json
MAX_SIDE = 256  # pixels of an image in the page
_PROGRESS_FROM = 60  # images
_OVERLAYS = "overlays"  # the step whose page shows images before and after


def write(folder: Path, conditioned: Conditioned) -> None:
    """Writes `FILES`, each whole or not at all; equal input gives equal bytes.

    Args:
      folder: made if it is not there.
    """
    data = json.dumps(summary(conditioned), indent=2) + "\n"
    write_whole(folder / FILES[0], data.encode("ascii"))
    write_whole(folder / FILES[1], render(conditioned).encode("utf-8"))


def summary(conditioned: Conditioned) -> dict[str, Any]:
    """Every count, figure and setting, ready for JSON; images are named by their ids, and no text
    tells where files lie.

    Keys: `format`, `dataset`, `settings`, `off` (whose steps did not run), `faults`, `before` and
    `after` (`patients`, `images`, `questions`), `parts` (what each has in the end, `diagnoses`
    too), and `steps`: `name`, `does`, `unit`, `dropped`, `changed`,
    `figures`, `warnings`, `before`, `after`, `cases`.
    """
    sizes = [dataclasses.asdict(size) for size in conditioned.sizes]
    return {
        "format": FORMAT,
        "dataset": conditioned.name,
        "settings": folders.of_settings(conditioned.settings),
        "off": list(conditioned.off),
        "faults": dict(conditioned.faults),
        "before": sizes[0],
        "after": sizes[-1],
        "parts": parts_of(conditioned.records),
        "steps": [
            {
                "name": report.name,
                "does": report.does,
                "unit": report.unit,
                "dropped": dict(report.dropped),
                "changed": dict(report.changed),
                "figures": dict(report.figures),
                "warnings": list(report.warnings),
                "before": sizes[i],
                "after": sizes[i + 1],
                "cases": [_case(case) for case in report.cases],
            }
            for i, report in enumerate(folders.taken_out(conditioned))
        ],
    }


def _case(case: Case) -> dict[str, str]:
    other = {"other": case.other.id} if case.other else {}
    return {"image": case.record.id, "why": case.why, "text": case.text} | other


def render(conditioned: Conditioned) -> str:
    """The page as text. Images that cannot be read are told of in their place."""
    pictures = _Pictures(conditioned)
    reports = folders.taken_out(conditioned)
    sizes = conditioned.sizes
    sections = "\n".join(
        _section(report, before, after, pictures)
        for report, before, after in zip(reports, sizes[:-1], sizes[1:], strict=True)
    )
    warnings = "".join(
        f'<p class="warning"><a href="#{escape(report.name)}">{escape(_title(report.name))}</a>: '
        f"{escape(text)}</p>"
        for report in reports
        for text in report.warnings
    )
    before, after = sizes[0], sizes[-1]
    off = ", ".join(_title(name).lower() for name in conditioned.off) or "nothing"
    return fill(
        __package__,
        "conditioning.html",
        title=escape(f"{conditioned.name}: what was done to the data"),
        lead=f"Read: {_size(before)}. Kept: {_size(after)}.",
        warnings=warnings,
        overview=_overview(reports, sizes),
        parts=page_figures.of_step("split", {"parts": parts_of(conditioned.records)}),
        off=escape(off),
        images="\n".join(pictures.embedded),
        sections=sections,
        settings="".join(
            f"<div><dt>{escape(key)}</dt><dd>{escape(_value(value))}</dd></div>"
            for key, value in folders.of_settings(conditioned.settings).items()
        ),
    )


def _value(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value) or "none"


def _title(name: str) -> str:
    """What a step is called: in `titles.json`, else its name."""
    return table("titles.json").get(name, name.replace("_", " ").capitalize())


def _size(size: Size) -> str:
    patients = f"{count(size.patients, 'patient')}, " if size.patients else ""
    return f"{patients}{count(size.images, 'image')}, {count(size.questions, 'question')}"


def _overview(reports: Sequence[Report], sizes: Sequence[Size]) -> str:
    head = ("step", "dropped", "changed", "images left", "questions left")
    titles = "".join(
        f'<th scope="col"{" class=number" if i else ""}>{name}</th>' for i, name in enumerate(head)
    )
    rows = []
    for report, after in zip(reports, sizes[1:], strict=True):
        numbers = (
            sum(report.dropped.values()),
            sum(report.changed.values()),
            after.images,
            after.questions,
        )
        cells = "".join(
            f'<td class="number" data-name="{name}">{number:,}</td>'
            for name, number in zip(head[1:], numbers, strict=True)
        )
        rows.append(
            f'<tr><th scope="row"><a href="#{escape(report.name)}">{escape(_title(report.name))}'
            f"</a></th>{cells}</tr>"
        )
    return (
        f'<div class="results"><table><thead><tr>{titles}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _section(report: Report, before: Size, after: Size, pictures: "_Pictures") -> str:
    lost = sum(report.dropped.values())
    parts = [
        f'<section id="{escape(report.name)}"><h2>{escape(_title(report.name))}</h2>',
        f'<p class="does">{escape(report.does)}</p>',
        f'<p class="note">{_change(before, after)}</p>',
    ]
    parts += [f'<p class="warning">{escape(text)}</p>' for text in report.warnings]
    if lost:
        parts.append(f"<h3>{lost:,} {escape(report.unit)} dropped, by reason</h3>")
        parts.append(page_figures.bars(report.dropped, style="dropped"))
    if report.changed:
        parts.append("<h3>Changed</h3>" + page_figures.bars(report.changed))
    parts.append(page_figures.of_step(report.name, report.figures))
    if report.cases:
        items = "\n".join(pictures.case(report, case) for case in report.cases)
        parts.append(f'<h3>Examples</h3><ul class="cases">{items}</ul>')
    return "".join(parts) + "</section>"


def _change(before: Size, after: Size) -> str:
    if before == after:
        return f"{_size(before)}, before and after."
    return f"Before: {_size(before)}. After: {_size(after)}."


class _Pictures:
    """The images of cases, each embedded once however often it is shown.

    An image is shown as a model sees it in the end, burned-in names hidden, whichever step it is
    an example of; only the step that hides them shows what it hid.
    """

    def __init__(self, conditioned: Conditioned):
        self._last: Mapping[str, Record] = {record.id: record for record in conditioned.records}
        self._places: dict[tuple[str, bool], tuple[str, int, int, float] | str] = {}
        self.embedded: list[str] = []
        cases = [(report, case) for report in conditioned.reports for case in report.cases]
        bar = tqdm(
            cases,
            desc="page",
            unit="example",
            file=sys.stderr,
            disable=len(cases) < _PROGRESS_FROM,
        )
        for report, case in bar:
            for record in filter(None, (case.record, case.other)):
                self._embed(record, original=False)
            if report.name == _OVERLAYS and self._is_changed(case.record):
                self._embed(case.record, original=True)

    def case(self, report: Report, case: Case) -> str:
        """An example as an item of a list."""
        figures = []
        if report.name == _OVERLAYS and self._is_changed(case.record):
            figures += [self._figure(case.record, "in the file", original=True)]
            figures += [self._figure(case.record, "as it is learnt")]
        else:
            figures += [self._figure(case.record, case.record.id)]
        if case.other is not None:
            figures += [self._figure(case.other, case.other.id)]
        facts = "".join(
            f"<span>{escape(text)}</span>"
            for record in filter(None, (case.record, case.other))
            if (text := " · ".join(filter(None, (record.id, record.patient, record.split))))
        )
        style = " pair" if len(figures) > 1 else ""
        return (
            f'<li class="case{style}"><div class="pictures">{"".join(figures)}</div>'
            f'<div class="what"><b>{escape(case.why)}</b>'
            f'<p dir="auto">{escape(case.text)}</p><code>{facts}</code></div></li>'
        )

    def _now(self, record: Record) -> Record:
        return self._last.get(record.id, record)

    def _is_changed(self, record: Record) -> bool:
        now = self._now(record)
        return bool(now.hidden) or now.crop is not None

    def _embed(self, record: Record, *, original: bool) -> None:
        now = self._now(record)
        key = (now.image.key, original)
        if key in self._places:
            return
        try:
            pixels = now.image.pixels()
        except BadExample as error:
            self._places[key] = error.reason
            return
        side = max(pixels.shape[:2])
        if not original:
            pixels = shown(pixels, now.hidden, now.crop)
        uri, width, height = data_uri(pixels, MAX_SIDE)
        name = f"image{len(self.embedded)}"
        self._places[key] = (name, width, height, max(width, height) / side)
        self.embedded.append(f'<image id="{name}" width="{width}" height="{height}" href="{uri}"/>')

    def _figure(self, record: Record, caption: str, *, original: bool = False) -> str:
        now = self._now(record)
        place = self._places[now.image.key, original]
        if isinstance(place, str):
            return f'<figure><p class="gone">{escape(place)}</p></figure>'
        name, width, height, scale = place
        outlines = ""
        if original:
            outlines = "".join(_outline(box, scale, "hides") for box in now.hidden)
            if now.crop is not None:
                outlines += _outline(now.crop, scale, "keeps")
        return (
            '<figure><button class="picture" aria-expanded="false" title="Enlarge">'
            f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="image '
            f'{escape(record.id)}"><use href="#{name}"/>{outlines}</svg></button>'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )


def _outline(box: tuple[int, int, int, int], scale: float, style: str) -> str:
    y1, x1, y2, x2 = (end * scale for end in box)
    return (
        f'<rect class="{style}" x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" '
        f'height="{y2 - y1:.1f}"/>'
    )
