"""What parts of data share, as a page: counts, and every pair of images side by side."""

import os
from collections.abc import Sequence

from tqdm import tqdm

from medjax.data.faults import BadExample
from medjax.data.medical.conditioning.leaks import KINDS, Leak, counted
from medjax.data.medical.record import Record, shown
from medjax.evaluation.pages import count, data_uri, escape, fill, options
from medjax.files import write_whole

_MAX_SIDE = 320  # pixels of an embedded image
_MOST = 300  # pairs of a kind and of two parts that are shown: a page of more opens slowly
_PROGRESS_FROM = 200  # images


def write_page(
    path: str | os.PathLike[str],
    compared: Sequence[tuple[str, str]],
    leaks: Sequence[Leak],
    *,
    title: str = "Leaks",
) -> None:
    """Writes the page, whole or not at all.

    Args:
      path: of the HTML file.
      compared: names of the parts that were compared, which have a row each.
      leaks: all that was found.
      title: of the page.
    """
    write_whole(path, render(compared, leaks, title=title).encode("utf-8"))


def render(
    compared: Sequence[tuple[str, str]], leaks: Sequence[Leak], *, title: str = "Leaks"
) -> str:
    """The page that `write_page` writes, as text."""
    by_place: dict[tuple[str, tuple[str, str]], list[Leak]] = {}
    for leak in leaks:
        by_place.setdefault((leak.kind, leak.parts), []).append(leak)
    listed = [leak for of_place in by_place.values() for leak in of_place[:_MOST]]
    pictures = _Pictures(listed)
    left_out = len(leaks) - len(listed)
    kinds = counted(leaks)
    parts = sorted({leak.parts for leak in leaks})
    note = (
        "Numbers count pairs. Where several images share a patient, an id or a caption, each is in "
        "a pair, but not each with each."
    )
    if left_out:
        note += (
            f" {count(left_out, 'pair')} more than are shown: {_MOST} of each kind and parts are."
        )
    images = {id(record) for leak in leaks for record in (leak.train, leak.held_out)}
    lead = f"{count(len(leaks), 'pair')} of {count(len(images), 'image')}" if leaks else ""
    return fill(
        __package__,
        "leaks.html",
        title=escape(title),
        lead=lead or "The parts share nothing that was looked for.",
        table=_table(compared, leaks),
        note=escape(note),
        tools_hidden="" if leaks else " hidden",
        kind_options=options((kind, kind) for kind in kinds),
        parts_options=options((_both(two), _both(two)) for two in parts),
        images="\n".join(pictures.embedded),
        pairs="\n".join(pictures.pair(i, leak) for i, leak in enumerate(listed, 1)),
    )


def _both(parts: tuple[str, str]) -> str:
    return " – ".join(parts)


def _table(compared: Sequence[tuple[str, str]], leaks: Sequence[Leak]) -> str:
    head = '<th scope="col">parts</th>' + "".join(
        f'<th scope="col" class="number">{kind}</th>' for kind in KINDS
    )
    rows = []
    for parts in compared:
        counts = counted([leak for leak in leaks if leak.parts == parts])
        cells = "".join(
            f'<td class="number" data-name="{kind}">{counts.get(kind, 0):,}</td>' for kind in KINDS
        )
        rows.append(f'<tr><th scope="row">{escape(_both(parts))}</th>{cells}</tr>')
    return (
        f'<div class="results"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


class _Pictures:
    """The images of pairs, each embedded once however often it is shown."""

    def __init__(self, leaks: Sequence[Leak]):
        self._places: dict[int, tuple[str, int, int] | str] = {}
        self.embedded: list[str] = []
        records = {id(r): r for leak in leaks for r in (leak.train, leak.held_out)}
        bar = tqdm(
            records.items(), desc="page", unit="image", disable=len(records) < _PROGRESS_FROM
        )
        for key, record in bar:
            self._places[key] = self._embed(record)

    def _embed(self, record: Record) -> tuple[str, int, int] | str:
        try:
            pixels = shown(record.image.pixels(), record.hidden, record.crop)
        except BadExample as error:
            return error.reason
        uri, width, height = data_uri(pixels, _MAX_SIDE)
        name = f"image{len(self.embedded)}"
        self.embedded.append(f'<image id="{name}" width="{width}" height="{height}" href="{uri}"/>')
        return name, width, height

    def pair(self, number: int, leak: Leak) -> str:
        """A pair as an item of the list."""
        sides = zip((leak.train, leak.held_out), leak.parts, strict=True)
        return (
            f'<li class="pair" id="pair{number}" data-kind="{escape(leak.kind)}" '
            f'data-parts="{escape(_both(leak.parts))}"><div><b>{escape(leak.kind)}</b>'
            f'<a href="#pair{number}">{number}</a>'
            f'<span class="detail" dir="auto">{escape(leak.detail)}</span></div>'
            f"{''.join(self._figure(record, part) for record, part in sides)}</li>"
        )

    def _figure(self, record: Record, part: str) -> str:
        place = self._places[id(record)]
        if isinstance(place, str):
            picture = f'<p class="gone">{escape(place)}</p>'
        else:
            name, width, height = place
            picture = (
                '<button class="picture" aria-expanded="false" title="Enlarge">'
                f'<svg viewBox="0 0 {width} {height}" role="img" '
                f'aria-label="image {escape(record.id)}"><use href="#{name}"/></svg></button>'
            )
        patient = f"<code>patient {escape(record.patient)}</code>" if record.patient else ""
        return (
            f"<figure>{picture}<figcaption>{escape(part)}<code>{escape(record.id)}</code>{patient}"
            "</figcaption></figure>"
        )
