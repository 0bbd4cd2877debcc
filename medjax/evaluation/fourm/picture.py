"""A picture of all directions: a row each, a few samples side by side."""

import io
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medjax.evaluation.fourm.cases import Exhibit, Legend, Section, Shown
from medjax.evaluation.fourm.scores import MAIN_METRIC
from medjax.evaluation.picture import FAINT, INK, PAPER, wrap
from medjax.evaluation.table import metric_name
from medjax.files import write_whole

_SIDE, _GAP, _BETWEEN, _MARGIN = 132, 8, 34, 28
_HEADING, _CAPTION, _SCORE, _BELOW = 30, 20, 22, 20  # heights, pixels
_LARGE, _SMALL, _LINE = 17, 13, 16
_WASH = "#F2F3F4"


def choose(exhibits: Sequence[Exhibit], count: int) -> list[Exhibit]:
    """Evenly spaced ones, whatever their scores: the same samples where directions share them."""
    count = min(count, len(exhibits))
    return [exhibits[(2 * i + 1) * len(exhibits) // (2 * count)] for i in range(count)]


def sheet(
    sections: Sequence[Section], system: str, *, count: int = 3, legend: Legend = ()
) -> Image.Image:
    """Draws `count` samples of each direction: what was given, what a system made, what is true.

    Args:
      sections: one for each direction.
      system: whose values are drawn; where it made none, the last system that did.
      count: of samples.
      legend: what colours of masks stand for.

    Returns:
      An RGB image, white paper.

    Raises:
      ValueError: there is nothing to draw.
    """
    sections = [section for section in sections if section.exhibits]
    if not sections:
        raise ValueError("no directions to draw")
    block = max(map(_columns, sections)) * (_SIDE + _GAP) - _GAP + _BETWEEN
    width = count * block - _BETWEEN
    height = _HEADING + _CAPTION + _SIDE + _SCORE + _BELOW
    above = _MARGIN + (_HEADING if legend else 0)
    size = (2 * _MARGIN + width, above + _MARGIN + len(sections) * height - _BELOW)
    picture = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(picture)
    _draw_legend(draw, _MARGIN, _MARGIN, legend)
    for row, section in enumerate(sections):
        top = above + row * height
        _draw_heading(draw, _MARGIN, top, section)
        for column, exhibit in enumerate(choose(section.exhibits, count)):
            corner = (_MARGIN + column * block, top + _HEADING)
            _draw_sample(picture, draw, corner, section, exhibit, system)
    return picture


def write_picture(
    path: str | os.PathLike[str],
    sections: Sequence[Section],
    system: str,
    *,
    count: int = 3,
    legend: Legend = (),
) -> None:
    """Writes a `sheet` as a PNG file, whole or not at all."""
    data = io.BytesIO()
    sheet(sections, system, count=count, legend=legend).save(data, "png", optimize=True)
    write_whole(path, data.getvalue())


def _columns(section: Section) -> int:
    """Values of a sample: what is given, what was made, what is true."""
    return len(section.direction.given) + 2


def _draw_legend(draw: ImageDraw.ImageDraw, x: int, y: int, legend: Legend) -> None:
    """Colours and what they stand for, side by side."""
    font = ImageFont.load_default(_SMALL)
    for name, colour in legend:
        draw.rectangle((x, y, x + 13, y + 13), fill=colour)
        draw.text((x + 20, y - 1), name, fill=INK, font=font)
        x += 20 + int(font.getlength(name)) + 24


def _draw_heading(draw: ImageDraw.ImageDraw, x: int, y: int, section: Section) -> None:
    """The direction; its arrow is drawn because Pillow's own font has none."""
    font = ImageFont.load_default(_LARGE)
    given = " + ".join(section.direction.given)
    draw.text((x, y), given, fill=INK, font=font)
    start, middle = x + int(font.getlength(given)) + 9, y + 12
    end = start + 24
    draw.line(((start, middle), (end, middle)), fill=INK, width=2)
    draw.line(
        ((end - 6, middle - 5), (end, middle), (end - 6, middle + 5)),
        fill=INK,
        width=2,
        joint="curve",
    )
    draw.text((end + 9, y), section.direction.target, fill=INK, font=font)


def _draw_sample(
    picture: Image.Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    section: Section,
    exhibit: Exhibit,
    system: str,
) -> None:
    left, top = corner
    if system not in exhibit.made:
        system = list(exhibit.made)[-1]
    values: list[tuple[str, Shown]] = [*exhibit.given.items(), (system, exhibit.made[system])]
    values.append(("true", exhibit.true))
    font = ImageFont.load_default(_SMALL)
    for column, (name, shown) in enumerate(values):
        x, y = left + column * (_SIDE + _GAP), top + _CAPTION
        draw.text((x, top), wrap(name, _SMALL, _SIDE, 1)[0], fill=FAINT, font=font)
        if isinstance(shown, str):
            _draw_words(draw, x, y, shown)
        else:
            _draw_image(picture, x, y, shown)
    metric = MAIN_METRIC[section.content]
    name, _, unit = metric_name(metric).partition(" (")
    score = f"{name} {exhibit.scores[system][metric]:.2f} {unit.rstrip(')')}"
    x = left + (len(values) - 2) * (_SIDE + _GAP)
    draw.text((x, top + _CAPTION + _SIDE + 4), score, fill=INK, font=font)


def _draw_image(picture: Image.Image, x: int, y: int, pixels: np.ndarray) -> None:
    """An image, centred in its square, on black."""
    image = Image.fromarray(pixels)
    scale = _SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    picture.paste("#000000", (x, y, x + _SIDE, y + _SIDE))
    corner = (x + (_SIDE - size[0]) // 2, y + (_SIDE - size[1]) // 2)
    picture.paste(image.resize(size, Image.Resampling.LANCZOS).convert("RGB"), corner)


def _draw_words(draw: ImageDraw.ImageDraw, x: int, y: int, text: str) -> None:
    """A text in its square, cut where it does not fit."""
    draw.rectangle((x, y, x + _SIDE - 1, y + _SIDE - 1), fill=_WASH)
    font = ImageFont.load_default(_SMALL)
    lines = wrap(text, _SMALL, _SIDE - 16, (_SIDE - 12) // _LINE) if text.strip() else ["(nothing)"]
    for number, line in enumerate(lines):
        draw.text((x + 8, y + 6 + number * _LINE), line, fill=INK, font=font)
