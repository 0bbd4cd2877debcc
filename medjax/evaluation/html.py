"""Predictions as one page to look through: images with boxes, questions, answers, scores.

The page needs nothing but itself. Rows and images lie in it as data, each image once however many
questions share it; the page's script makes the rows that are in view, so that thousands of them
cost no more than a few. Everything that comes from data is escaped, the script puts it in as text
alone, and a content security policy lets no other script run than the page's own.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from medjax.data.loc_tokens import EXTRA_REGEX, decode_boxes
from medjax.evaluation import pages
from medjax.evaluation.metrics import FOUND_DICE, FOUND_IOU, MAIN_METRIC, MASK_DICE
from medjax.evaluation.predictions import Prediction, by_id
from medjax.evaluation.table import Results, metric_name
from medjax.files import write_whole
from medjax.thumbnails import Thumbnail

_MARKS = {
    "question": {"correct": "✓ correct", "wrong": "✗ wrong", "unscored": "– not scored"},
    "detection": {"correct": "✓ found", "wrong": "✗ missed", "unscored": "– not scored"},
    "segmentation": {"correct": "✓ found", "wrong": "✗ missed", "unscored": "– not scored"},
    "caption": {"correct": "✓ same", "wrong": "✗ differs", "unscored": "– not scored"},
}
# Facts of an example that come first, in this order; others follow by name.
_FACTS = ("modality", "plane", "location", "question_type", "answer_type", "seen", "mode", "origin",
          "language")  # fmt: skip
_LONG = 120  # characters: a fact that is longer in some row is a text, and not shown
_CHOICES = 60  # values that a filter offers, at most


def write_html(
    path: str | os.PathLike[str],
    predictions: Sequence[Prediction] | Mapping[str, Sequence[Prediction]],
    images: Mapping[str, Thumbnail],
    *,
    title: str = "Predictions",
    summary: Results | None = None,
) -> None:
    """Writes the page, whole or not at all.

    Args:
      path: of the HTML file.
      predictions: of one system, or of several by name, on the same examples. The last system is
        the one that is shown first; the page can switch.
      images: by image key, see `thumbnails.thumbnails`; every key of the predictions.
      title: of the page.
      summary: the table at its top.

    Raises:
      ValueError: an image is missing, or the systems answered different examples.
    """
    page = render(predictions, images, title=title, summary=summary)
    write_whole(path, page.encode("utf-8"))


def render(
    predictions: Sequence[Prediction] | Mapping[str, Sequence[Prediction]],
    images: Mapping[str, Thumbnail],
    *,
    title: str = "Predictions",
    summary: Results | None = None,
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
    missing = [key for key in keys if key not in images]
    if missing:
        raise ValueError(f"{len(missing)} images are missing, such as {missing[0]!r}")
    numbers = {key: i for i, key in enumerate(keys)}
    tasks = sorted({example[0].task for example in examples})
    has_boxes = any(example[0].kind in ("detection", "segmentation") for example in examples)
    return pages.fill(
        __package__,
        "page.html",
        title=pages.escape(title),
        lead=f"{pages.count(len(examples), 'question')} on {pages.count(len(numbers), 'image')}",
        system_hidden=" hidden" if len(names) == 1 else "",
        system_options=pages.options(enumerate(names), selected=len(names) - 1),
        task_options=pages.options((task, task) for task in tasks),
        images="\n".join(
            pages.json_block(f"image{i}", images[key].uri) for key, i in numbers.items()
        ),
        data=pages.json_block("data", _data(names, examples, numbers, images)),
        results=pages.results_table(summary) if summary else "",
        legend=_LEGEND if has_boxes else "",
        found_iou=FOUND_IOU,
        found_dice=f"{FOUND_DICE:.2f}",
    )


def _data(
    names: Sequence[str],
    examples: Sequence[Sequence[Prediction]],
    numbers: Mapping[str, int],
    images: Mapping[str, Thumbnail],
) -> dict[str, Any]:
    """What the page's script makes rows of.

    Scores and facts are lists as long as `metrics` and `facts`; null is not known.
    """
    main = set(MAIN_METRIC.values())
    metrics = sorted(
        dict.fromkeys(m for example in examples for p in example for m in p.scores),
        key=lambda metric: metric not in main,
    )
    facts = _facts([example[0] for example in examples])
    in_patients = any("patient" in example[0].extra for example in examples)
    return {
        "systems": list(names),
        "metrics": [{"key": m, "name": metric_name(m)} for m in metrics],
        "facts": [{"name": key.replace("_", " "), "choices": choices} for key, choices in facts],
        "patient": "patient" if in_patients else "group",
        "marks": _MARKS,
        "images": [
            {"key": key, "width": images[key].width, "height": images[key].height}
            for key in numbers
        ],
        "rows": [
            {
                "id": example[0].id,
                "task": example[0].task,
                "kind": example[0].kind,
                "image": numbers[example[0].image_key],
                "patient": _patient(example[0]),
                "question": example[0].question,
                "truth": _said(example[0].truth),
                "boxes": _boxes(example[0].truth),
                "facts": [_fact(example[0], key) for key, _ in facts],
                "answers": [_answer(prediction, metrics) for prediction in example],
            }
            for example in examples
        ],
    }


def _answer(prediction: Prediction, metrics: Sequence[str]) -> dict[str, Any]:
    """What one system said and what that is worth."""
    return {
        "said": _said(prediction.generated),
        "boxes": _boxes(prediction.generated),
        "verdict": prediction.verdict,
        "main": _rounded(prediction.main_score),
        "scores": [_rounded(prediction.scores.get(metric)) for metric in metrics],
        "confidence": _rounded(prediction.confidence),
        "log_prob": _rounded(prediction.log_prob),
        "truncated": prediction.truncated,
    }


def _said(text: str) -> list[str]:
    """A text in parts: words, then a loc or seg token, then words again, and so on."""
    parts, end = [], 0
    for match in EXTRA_REGEX.finditer(text):
        parts += [text[end : match.start()], match.group()]
        end = match.end()
    return [*parts, text[end:]]


def _boxes(text: str) -> list[list[Any]]:
    """The boxes of an answer: y1, x1, y2, x2 as fractions of the image, and their labels."""
    return [[*(_rounded(place) for place in box), label] for box, label in decode_boxes(text)]


def _patient(example: Prediction) -> str:
    """Whose image it is; the group where that is not known, unless it is the image itself."""
    known = example.extra.get("patient")
    if known not in (None, ""):
        return str(known)
    return "" if example.group == example.image_key else example.group


def _facts(examples: Sequence[Prediction]) -> list[tuple[str, list[str]]]:
    """The short facts of `extra`, each with the values that one may filter by, if they are few."""
    found: dict[str, set[str]] = {}
    for example in examples:
        for key in example.extra.keys() - {"task", "patient"}:
            if not key.startswith(MASK_DICE):  # that is among the scores
                found.setdefault(key, set()).add(_fact(example, key))
    place = {key: i for i, key in enumerate(_FACTS)}
    keys = sorted(found, key=lambda key: (place.get(key, len(place)), key))
    facts = []
    for key in keys:
        values = sorted(found[key] - {""})
        if values and max(map(len, values)) <= _LONG:
            facts.append((key, values if 2 <= len(values) <= _CHOICES else []))
    return facts


def _fact(example: Prediction, key: str) -> str:
    """A text or a number as text; empty where it is neither, or not known."""
    value: Any = example.extra.get(key)
    if hasattr(value, "ndim") and value.ndim == 0:
        value = value.item()
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if isinstance(value, str | int) else ""


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


_LEGEND = (
    '<div class="legend"><span><svg viewBox="0 0 34 8"><path class="truth" d="M0 4h34"/></svg>'
    'true box</span><span><svg viewBox="0 0 34 8"><path class="guess" d="M0 4h34"/></svg>'
    "predicted box</span></div>"
)
