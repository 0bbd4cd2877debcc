"""The embedding map as a page: whoever points at a point, by mouse or by keys, sees what it is."""

import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from medjax.evaluation import pages
from medjax.evaluation.embedding_map import Points, level_colours, modality_style
from medjax.files import write_whole

_SIDE, _MARGIN = 600.0, 20.0
# The shapes of matplotlib's markers of those names, of equal area, about the origin.
_SHAPES = {
    "o": "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",
    "s": "M-4.4-4.4h8.8v8.8h-8.8z",
    "^": "M0-6.7 5.8 3.4h-11.6z",
    "D": "M0-6.3 6.3 0 0 6.3-6.3 0z",
    "v": "M0 6.7 5.8-3.4h-11.6z",
}


def write_page(
    path: str | os.PathLike[str],
    points: Points,
    plane: Float[np.ndarray, "n 2"],
    *,
    title: str = "Embedding map",
    level: str = "level",
    notes: Sequence[str] = (),
    max_side: int = 128,
) -> None:
    """Writes the page, whole or not at all.

    Args:
      path: of the HTML file.
      plane: where the points lie (`embedding_map.project`).
      title: of the page.
      level: what a level is called.
      notes: what is said above the map, a paragraph each.
      max_side: thumbnails are embedded with at most this many pixels a side.
    """
    page = render(points, plane, title=title, level=level, notes=notes, max_side=max_side)
    write_whole(path, page.encode("utf-8"))


def render(
    points: Points,
    plane: Float[np.ndarray, "n 2"],
    *,
    title: str = "Embedding map",
    level: str = "level",
    notes: Sequence[str] = (),
    max_side: int = 128,
) -> str:
    """The page that `write_page` writes, as text."""
    modalities, levels = points.modality_names, points.level_names
    styles = [modality_style(index) for index in range(len(modalities))]
    of_level = level_colours(len(levels))
    css = [f".by-modality .m{i}{{fill:{colour}}}" for i, (colour, _) in enumerate(styles)]
    css += [f".by-level .l{i}{{fill:{colour}}}" for i, colour in enumerate(of_level)]
    shapes = "".join(
        f'<path id="shape{i}" d="{_SHAPES[marker]}"/>' for i, (_, marker) in enumerate(styles)
    )
    number_of = {name: i for i, name in enumerate(modalities)}
    places = _places(plane)
    marks = "".join(
        f'<use href="#shape{number_of[modality]}" '
        f'class="m{number_of[modality]} l{levels.index(of_point)}" '
        f'transform="translate({x:.1f} {y:.1f})"/>'
        for modality, of_point, (x, y) in zip(points.modalities, points.levels, places, strict=True)
    )
    items = "\n".join(_item(points, index, max_side) for index in range(len(points.ids)))
    return pages.fill(
        __package__,
        "embedding_map.html",
        title=pages.escape(title),
        lead=f"{pages.count(len(points.ids), 'point')} of "
        f"{pages.count(len(set(points.ids)), 'sample')}",
        notes="".join(f'<p class="note">{pages.escape(note)}</p>' for note in notes),
        colours="\n".join(css),
        side=f"{_SIDE:g}",
        shapes=shapes,
        marks=marks,
        level=pages.escape(level),
        modality_legend=_legend("m", modalities),
        level_legend=_legend("l", [str(name) for name in levels]),
        items=items,
    )


def _places(plane: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    """Where points lie on the page: equal scales, y downwards."""
    low, high = plane.min(0), plane.max(0)
    scale = (_SIDE - 2.0 * _MARGIN) / max(float((high - low).max()), 1e-12)
    middle = (plane - (low + high) / 2.0) * scale
    return _SIDE / 2.0 + middle * [1.0, -1.0]


def _legend(letter: str, names: Sequence[str]) -> str:
    """Buttons that switch what they name on and off."""
    buttons = []
    for index, name in enumerate(names):
        shape = f"#shape{index}" if letter == "m" else "#shape-of-level"
        buttons.append(
            f'<button class="toggle" aria-pressed="true" data-hides="{letter}{index}">'
            f'<svg viewBox="-8 -8 16 16" aria-hidden="true"><use href="{shape}" '
            f'class="{letter}{index}"/></svg>{pages.escape(name)}</button>'
        )
    return "".join(buttons)


def _item(points: Points, index: int, max_side: int) -> str:
    """What is told of a point; the page's script shows it."""
    thumbnail = points.thumbnails[index]
    if not isinstance(thumbnail, str):
        thumbnail, _, _ = pages.data_uri(thumbnail, max_side)
    if thumbnail.startswith("data:image/"):
        body = f'<img alt="" src="{pages.escape(thumbnail)}">'
    else:
        body = f'<p class="said" dir="auto">{pages.escape(thumbnail)}</p>'
    return (
        f'<li data-id="{pages.escape(points.ids[index])}">{body}'
        f'<div class="what"><b>{pages.escape(points.modalities[index])}</b>'
        f"<span>{pages.escape(str(points.levels[index]))}</span>"
        f"<code>{pages.escape(points.ids[index])}</code></div></li>"
    )
