"""Predictions as one page to look through: images with boxes, questions, answers, scores.

The page needs nothing but itself. Each image is embedded once however many questions share it, and
boxes are drawn over it as SVG. Everything that comes from data is escaped, and a content security
policy lets no other script run than the page's own.
"""

import os
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from medjax.data.loc_tokens import EXTRA_REGEX, decode_boxes
from medjax.evaluation import pages
from medjax.evaluation.metrics import FOUND_IOU
from medjax.evaluation.predictions import Prediction, by_id
from medjax.evaluation.table import Results, metric_name
from medjax.files import write_whole

_MARKS = {
    ("question", "correct"): "✓ correct",
    ("question", "wrong"): "✗ wrong",
    ("detection", "correct"): "✓ found",
    ("detection", "wrong"): "✗ missed",
    ("caption", "correct"): "✓ same",
    ("caption", "wrong"): "✗ differs",
}
_PROGRESS_FROM = 1000  # images


def write_html(
    path: str | os.PathLike[str],
    predictions: Sequence[Prediction] | Mapping[str, Sequence[Prediction]],
    images: Mapping[str, UInt8[np.ndarray, "H W 3"]],
    *,
    title: str = "Predictions",
    summary: Results | None = None,
    max_side: int = 448,
) -> None:
    """Writes the page, whole or not at all.

    Args:
      path: of the HTML file.
      predictions: of one system, or of several by name, on the same examples. The last system is
        the one that is shown first; the page can switch.
      images: by image key, uint8 [height, width, 3]; every key of the predictions.
      title: of the page.
      summary: the table at its top.
      max_side: images are embedded with at most this many pixels a side.

    Raises:
      ValueError: an image is missing, or the systems answered different examples.
    """
    page = render(predictions, images, title=title, summary=summary, max_side=max_side)
    write_whole(path, page.encode("utf-8"))


def render(
    predictions: Sequence[Prediction] | Mapping[str, Sequence[Prediction]],
    images: Mapping[str, UInt8[np.ndarray, "H W 3"]],
    *,
    title: str = "Predictions",
    summary: Results | None = None,
    max_side: int = 448,
) -> str:
    """The page that `write_html` writes, as text."""
    systems = predictions if isinstance(predictions, Mapping) else {"model": predictions}
    if not systems:
        raise ValueError("no system whose predictions to show")
    names = list(systems)
    indices = [by_id(of_system) for of_system in systems.values()]
    if any(index.keys() != indices[0].keys() for index in indices):
        raise ValueError("the systems answered different examples")
    examples = [[index[id] for index in indices] for id in indices[0]]

    keys = dict.fromkeys(example[0].image_key for example in examples)
    numbers = {key: i for i, key in enumerate(keys)}
    missing = [key for key in numbers if key not in images]
    if missing:
        raise ValueError(f"{len(missing)} images are missing, such as {missing[0]!r}")
    embedded, sizes = [], []
    bar = tqdm(numbers.items(), desc="page", unit="image", disable=len(numbers) < _PROGRESS_FROM)
    for key, i in bar:
        uri, width, height = pages.data_uri(images[key], max_side)
        sizes.append((width, height))
        embedded.append(f'<image id="image{i}" width="{width}" height="{height}" href="{uri}"/>')

    tasks = sorted({example[0].task for example in examples})
    rows = (
        _row(i, example, names, numbers[example[0].image_key], sizes[numbers[example[0].image_key]])
        for i, example in enumerate(examples)
    )
    has_boxes = any(example[0].kind == "detection" for example in examples)
    return pages.fill(
        __package__,
        "page.html",
        title=pages.escape(title),
        lead=f"{pages.count(len(examples), 'question')} on {pages.count(len(numbers), 'image')}",
        default_system=len(names) - 1,
        system_styles=_system_styles(len(names)),
        system_hidden=" hidden" if len(names) == 1 else "",
        system_options=pages.options(enumerate(names), selected=len(names) - 1),
        task_options=pages.options((task, task) for task in tasks),
        images="\n".join(embedded),
        results=pages.results_table(summary) if summary else "",
        legend=_LEGEND if has_boxes else "",
        rows="\n".join(rows),
        found_iou=FOUND_IOU,
    )


def _row(
    number: int,
    example: Sequence[Prediction],
    names: Sequence[str],
    image: int,
    size: tuple[int, int],
) -> str:
    """One example with the answers of every system."""
    first = example[0]
    answers = "".join(
        _answer(i, name, prediction)
        for i, (name, prediction) in enumerate(zip(names, example, strict=True))
    )
    truth = (
        f'<div class="answer true"><span class="who">true answer</span>{_said(first.truth)}</div>'
        if first.truth
        else ""
    )
    return (
        f'<li class="row" id="row{number + 1}" data-id="{pages.escape(first.id)}" '
        f'data-task="{pages.escape(first.task)}" '
        f'data-verdicts="{" ".join(p.verdict for p in example)}" '
        f'data-scores="{pages.numbers(p.main_score for p in example)}" '
        f'data-confidences="{pages.numbers(p.confidence for p in example)}">'
        f"{_picture(example, image, size)}"
        f'<div><div class="head"><a href="#row{number + 1}">{number + 1}</a>'
        f"<span>{pages.escape(first.task)}</span><code>{pages.escape(first.id)}</code></div>"
        f'<p class="question" dir="auto">{pages.escape(first.question)}</p>'
        f'<div class="answers">{answers}{truth}</div></div></li>'
    )


def _answer(number: int, name: str, prediction: Prediction) -> str:
    """What one system said and what that is worth."""
    marks = ["<span>question cut</span>"] if prediction.truncated else []
    # The verdict says what exact match would.
    marks += [
        f"<span>{pages.escape(metric_name(metric))} {value:.2f}</span>"
        for metric, value in prediction.scores.items()
        if metric != "exact_match"
    ]
    if prediction.confidence is not None:
        marks.append(
            f'<span title="log-probability of the whole answer {prediction.log_prob:.3f}">'
            f"confidence {prediction.confidence:.2f}</span>"
        )
    verdict = prediction.verdict
    mark = "– not scored" if verdict == "unscored" else _MARKS[prediction.kind, verdict]
    marks.append(f'<span class="verdict {verdict}">{mark}</span>')
    return (
        f'<div class="answer by{number}"><span class="who">{pages.escape(name)}</span>'
        f"{_said(prediction.generated)}"
        f'<span class="marks">{"".join(marks)}</span></div>'
    )


def _said(text: str) -> str:
    """An answer, its loc and seg tokens in small type."""
    if not text.strip():
        return '<span class="said"><em>no answer</em></span>'
    # Escaping `<loc0001>` gives `&lt;loc0001&gt;`, so tokens are found before it is done.
    parts, end = [], 0
    for match in EXTRA_REGEX.finditer(text):
        parts += [pages.escape(text[end : match.start()]), _token(match.group())]
        end = match.end()
    parts.append(pages.escape(text[end:]))
    return f'<span class="said" dir="auto">{"".join(parts)}</span>'


def _token(text: str) -> str:
    return f'<span class="loc mono">{pages.escape(text)}</span>'


def _picture(example: Sequence[Prediction], image: int, size: tuple[int, int]) -> str:
    """The image with the true boxes and, for each system, its own."""
    width, height = size
    layers = [f'<use href="#image{image}"/>', _boxes(example[0].truth, "truth", size)]
    for i, prediction in enumerate(example):
        boxes = _boxes(prediction.generated, "guess", size)
        if boxes:
            layers.append(f'<g class="of of{i}">{boxes}</g>')
    return (
        '<button class="picture" aria-expanded="false" title="Enlarge">'
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="image '
        f'{pages.escape(example[0].image_key)}">{"".join(layers)}</svg></button>'
    )


def _boxes(text: str, style: str, size: tuple[int, int]) -> str:
    """Rectangles for the boxes in an answer; where there are several, with their labels."""
    width, height = size
    objects = decode_boxes(text)
    shapes = []
    for (y1, x1, y2, x2), label in objects:
        place = (
            f'x="{x1 * width:.1f}" y="{y1 * height:.1f}" '
            f'width="{(x2 - x1) * width:.1f}" height="{(y2 - y1) * height:.1f}"'
        )
        shapes.append(f'<rect class="box halo" {place}/><rect class="box {style}" {place}/>')
        if len(objects) > 1:
            # True labels go to the upper left, predicted ones to the lower right of their boxes.
            letter = max(width, height) / 30
            x, y = x1 * width + 0.4 * letter, y1 * height + letter
            if style == "guess":
                x, y = x2 * width - 0.4 * letter, y2 * height - 0.4 * letter
            shapes.append(
                f'<text class="tag of-{style}" x="{x:.1f}" y="{y:.1f}" '
                f'font-size="{letter:.1f}">{pages.escape(label)}</text>'
            )
    return "".join(shapes)


_LEGEND = (
    '<div class="legend"><span><svg viewBox="0 0 34 8"><path class="truth" d="M0 4h34"/></svg>'
    'true box</span><span><svg viewBox="0 0 34 8"><path class="guess" d="M0 4h34"/></svg>'
    "predicted box</span></div>"
)


def _system_styles(count: int) -> str:
    """Shows the boxes of the chosen system alone, and its name in bold."""
    return "".join(
        f'body:not([data-system="{i}"]) .of{i}{{display:none}}\n'
        f'body[data-system="{i}"] .by{i} .who{{color:var(--ink);font-weight:600}}\n'
        for i in range(count)
    )
