"""A picture of a few answers: images with their boxes, questions, answers and truths, in a grid."""

import collections
import dataclasses
import io
import itertools
import os
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medjax.data.loc_tokens import EXTRA_REGEX, decode_boxes
from medjax.evaluation.metrics import MAIN_METRIC
from medjax.evaluation.predictions import Prediction
from medjax.evaluation.table import metric_name
from medjax.files import write_whole
from medjax.pages import GUESS_COLOUR, TRUTH_COLOUR

PAPER, INK, FAINT = "#FFFFFF", "#1B1F24", "#6A727C"
_RIGHT, _WRONG = "#1F6F54", "#B3401F"
_IMAGE, _MARGIN, _GAP, _LINE, _INDENT = 300, 32, 28, 22, 24
_DASH, _SPACE = 10, 7


def choose(predictions: Sequence[Prediction], count: int) -> list[Prediction]:
    """Picks examples without looking at how well they went.

    Tasks take turns in order of appearance; each gives examples evenly spaced over its own, so that
    equal input gives an equal choice.
    """
    by_task: dict[str, list[Prediction]] = collections.defaultdict(list)
    for prediction in predictions:
        by_task[prediction.task].append(prediction)
    turns = itertools.cycle(list(by_task))
    shares: collections.Counter[str] = collections.Counter()
    for _ in range(min(count, len(predictions))):
        shares[next(t for t in turns if shares[t] < len(by_task[t]))] += 1
    chosen = []
    for task, share in shares.items():
        of_task = by_task[task]
        chosen += [of_task[(2 * i + 1) * len(of_task) // (2 * share)] for i in range(share)]
    return chosen


def contact_sheet(
    predictions: Sequence[Prediction],
    images: Mapping[str, np.ndarray],
    *,
    count: int = 12,
    columns: int = 4,
) -> Image.Image:
    """Draws `count` examples of `choose` in a grid.

    Args:
      predictions: one system's.
      images: by image key, uint8 [height, width, 3].
      count: of examples.
      columns: of the grid.

    Returns:
      An RGB image, white paper: true boxes in blue, the system's dashed in orange.

    Raises:
      ValueError: there is nothing to draw.
    """
    chosen = choose(predictions, count)
    if not chosen:
        raise ValueError("no predictions to draw")
    columns = min(columns, len(chosen))
    rows = -(-len(chosen) // columns)
    texts = [_lines(prediction) for prediction in chosen]
    heights = [
        _IMAGE + 10 + _LINE * max(len(text) for text in texts[row * columns : (row + 1) * columns])
        for row in range(rows)
    ]
    has_boxes = any(p.kind in ("detection", "segmentation") for p in chosen)
    legend = 34 if has_boxes else 0
    sheet = Image.new(
        "RGB",
        (
            2 * _MARGIN + columns * _IMAGE + (columns - 1) * _GAP,
            2 * _MARGIN + sum(heights) + (rows - 1) * _GAP + legend,
        ),
        PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    for i, (prediction, lines) in enumerate(zip(chosen, texts, strict=True)):
        row, column = divmod(i, columns)
        x = _MARGIN + column * (_IMAGE + _GAP)
        y = _MARGIN + sum(heights[:row]) + row * _GAP
        _draw_image(sheet, draw, x, y, images[prediction.image_key], prediction)
        for number, line in enumerate(lines):
            _draw_line_of_text(draw, x, y + _IMAGE + 10 + number * _LINE, line)
    if has_boxes:
        _draw_legend(draw, _MARGIN, sheet.height - _MARGIN - 8)
    return sheet


def write_picture(
    path: str | os.PathLike[str],
    predictions: Sequence[Prediction],
    images: Mapping[str, np.ndarray],
    *,
    count: int = 12,
    columns: int = 4,
) -> None:
    """Writes a `contact_sheet` as a PNG file, whole or not at all."""
    data = io.BytesIO()
    contact_sheet(predictions, images, count=count, columns=columns).save(
        data, "png", optimize=True
    )
    write_whole(path, data.getvalue())


def _draw_image(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    x: int,
    y: int,
    pixels: np.ndarray,
    prediction: Prediction,
) -> None:
    """The image, centred in its square, and its boxes."""
    image = Image.fromarray(pixels)
    scale = _IMAGE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    left, top = x + (_IMAGE - size[0]) // 2, y + (_IMAGE - size[1]) // 2
    draw.rectangle((x, y, x + _IMAGE - 1, y + _IMAGE - 1), fill="#000000")
    sheet.paste(image.resize(size, Image.Resampling.LANCZOS), (left, top))
    for text, colour, dashed in (
        (prediction.truth, TRUTH_COLOUR, False),
        (prediction.generated, GUESS_COLOUR, True),
    ):
        for (y1, x1, y2, x2), _ in decode_boxes(text):
            corners = (
                left + x1 * (size[0] - 1),
                top + y1 * (size[1] - 1),
                left + x2 * (size[0] - 1),
                top + y2 * (size[1] - 1),
            )
            _draw_box(draw, corners, colour, dashed)


def _draw_box(
    draw: ImageDraw.ImageDraw,
    corners: tuple[float, float, float, float],
    colour: str,
    dashed: bool,
) -> None:
    x1, y1, x2, y2 = corners
    for start, end in (
        ((x1, y1), (x2, y1)),
        ((x2, y1), (x2, y2)),
        ((x2, y2), (x1, y2)),
        ((x1, y2), (x1, y1)),
    ):
        _draw_line(draw, start, end, colour, dashed)


def _draw_line(
    draw: ImageDraw.ImageDraw,
    start: tuple[float, float],
    end: tuple[float, float],
    colour: str,
    dashed: bool,
) -> None:
    if not dashed:
        draw.line((start, end), fill=colour, width=3)
        return
    a, b = np.array(start), np.array(end)
    length = float(np.hypot(*(b - a)))
    for position in np.arange(0.0, length, _DASH + _SPACE):
        ends = [a + (b - a) * min(p, length) / length for p in (position, position + _DASH)]
        draw.line([(float(p[0]), float(p[1])) for p in ends], fill=colour, width=3)


@dataclasses.dataclass(frozen=True)
class _Line:
    """A line of text below an image; `mark` is the verdict drawn before it."""

    text: str
    colour: str
    size: int
    inset: int = 0
    mark: str = ""


def _lines(prediction: Prediction) -> list[_Line]:
    """Question, answer with its mark, truth, and the score that says more than the mark."""
    colour = {"correct": _RIGHT, "wrong": _WRONG, "unscored": INK}[prediction.verdict]
    lines = [_Line(text, INK, 17) for text in wrap(prediction.question, 17, _IMAGE, 3)]
    answer = _readable(prediction.generated) or "(no answer)"
    for i, text in enumerate(wrap(answer, 17, _IMAGE - _INDENT, 3)):
        lines.append(_Line(text, colour, 17, _INDENT, "" if i else prediction.verdict))
    if prediction.truth:
        truth = wrap(f"true: {_readable(prediction.truth)}", 15, _IMAGE - _INDENT, 3)
        lines += [_Line(text, FAINT, 15, _INDENT) for text in truth]
    value = prediction.main_score
    if value is not None and prediction.kind != "question":
        name = metric_name(MAIN_METRIC[prediction.kind])
        lines.append(_Line(f"{name} {value:.2f}", FAINT, 15, _INDENT))
    return lines


def _draw_line_of_text(draw: ImageDraw.ImageDraw, x: int, y: int, line: _Line) -> None:
    font = ImageFont.load_default(line.size)
    draw.text((x + line.inset, y), line.text, fill=line.colour, font=font)
    if line.mark:
        _draw_mark(draw, x, y, line.mark, line.colour)


def _draw_mark(draw: ImageDraw.ImageDraw, x: int, y: int, verdict: str, colour: str) -> None:
    """A tick or a cross, drawn because Pillow's own font has neither."""
    strokes: dict[str, list[tuple[tuple[int, int], ...]]] = {
        "correct": [((x + 2, y + 11), (x + 7, y + 16), (x + 16, y + 4))],
        "wrong": [((x + 3, y + 4), (x + 15, y + 16)), ((x + 15, y + 4), (x + 3, y + 16))],
        "unscored": [((x + 3, y + 10), (x + 15, y + 10))],
    }
    for points in strokes[verdict]:
        draw.line(points, fill=colour, width=3, joint="curve")


def _draw_legend(draw: ImageDraw.ImageDraw, x: int, y: int) -> None:
    font = ImageFont.load_default(15)
    for colour, dashed, name in (
        (TRUTH_COLOUR, False, "true box"),
        (GUESS_COLOUR, True, "predicted box"),
    ):
        _draw_line(draw, (x, y), (x + 44, y), colour, dashed)
        draw.text((x + 54, y), name, fill=FAINT, font=font, anchor="lm")
        x += 54 + int(font.getlength(name)) + 36


def _readable(text: str) -> str:
    """The words of an answer, without its loc and seg tokens."""
    return " ".join(EXTRA_REGEX.sub(" ", text).split())


def wrap(text: str, size: int, width: int, max_lines: int) -> list[str]:
    """Breaks text into lines of at most `width` pixels, within words where it must."""
    font = ImageFont.load_default(size)
    lines, line = [], ""
    for character in " ".join(text[:600].split()):
        if font.getlength(line + character) <= width:
            line += character
            continue
        head, space, tail = line.rpartition(" ")
        if character == " ":
            head, tail = line, ""
            character = ""
        elif not space:
            head, tail = line, ""
        lines.append(head)
        line = tail + character
    lines.append(line)
    if len(lines) > max_lines:
        last = lines[max_lines - 1]
        while last and font.getlength(last + "...") > width:
            last = last[:-1]
        lines = [*lines[: max_lines - 1], last.rstrip() + "..."]
    return lines
