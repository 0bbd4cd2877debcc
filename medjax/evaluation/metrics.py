"""How one answer is scored against the true one; every score is a fraction in [0, 1], 1 is best.

Three kinds of example, told apart by what they ask and what their true answer holds:

- detection, scored by `iou`: the true answer has boxes, or the question starts with "detect".
- caption, scored by `token_f1` and `exact_match`: the task is "caption", or the question is one of
  PaliGemma's caption prompts ("cap en", "caption en", "describe en").
- question, scored by `exact_match`: everything else.
"""

import collections
import re
import string
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from medjax.data.loc_tokens import Box, decode_boxes

Kind = Literal["question", "detection", "caption"]

# The score that stands for an answer of each kind where there is room for one.
MAIN_METRIC: dict[Kind, str] = {
    "question": "exact_match",
    "detection": "iou",
    "caption": "token_f1",
}
# A box counts as found from this IoU on (the PASCAL VOC criterion).
FOUND_IOU = 0.5

_CAPTION_PROMPT = re.compile(r"(cap|caption|describe)( [a-z]{2})?")


def kind_of(question: str, truth: str, task: str = "") -> Kind:
    """Tells which kind of example this is: see the module's docstring."""
    words = _normalise(question)
    if decode_boxes(truth) or words.split(" ")[0] == "detect":
        return "detection"
    if task == "caption" or _CAPTION_PROMPT.fullmatch(words):
        return "caption"
    return "question"


def score(question: str, generated: str, truth: str, task: str = "") -> dict[str, float]:
    """Scores one answer.

    Returns:
      The scores of the example's kind by name, each in [0, 1]; empty where there is no true answer.
    """
    if not truth.strip():
        return {}
    kind = kind_of(question, truth, task)
    if kind == "detection":
        return {"iou": detection_iou(generated, truth)}
    scores = {"exact_match": exact_match(generated, truth)}
    if kind == "caption":
        scores["token_f1"] = token_f1(generated, truth)
    return scores


def exact_match(generated: str, truth: str) -> float:
    """1.0 if both say the same, else 0.0.

    Upper and lower case, white space at the ends, runs of white space and periods at the end make
    no difference; everything else does.
    """
    return float(_normalise(generated) == _normalise(truth))


def token_f1(generated: str, truth: str) -> float:
    """Harmonic mean of precision and recall over words, in [0, 1].

    Words are what white space separates, without case and without the punctuation around them; a
    word that occurs n times in one text and m times in the other is shared min(n, m) times. Order
    plays no part. Two texts without words agree (1.0). Source: SQuAD (arXiv:1606.05250), except
    that articles count here.
    """
    a, b = _words(generated), _words(truth)
    if not a or not b:
        return float(a == b)
    shared = sum((collections.Counter(a) & collections.Counter(b)).values())
    return 2.0 * shared / (len(a) + len(b))


def detection_iou(generated: str, truth: str) -> float:
    """`mean_iou` of the boxes in two answers; a malformed box is none."""
    return mean_iou(decode_boxes(generated), decode_boxes(truth))


def mean_iou(generated: Iterable[tuple[Box, str]], truth: Iterable[tuple[Box, str]]) -> float:
    """Mean intersection over union of boxes with their labels, in [0, 1].

    Boxes are matched within each label (case and spaces aside), the best overlapping pair first.
    Each pair contributes its IoU; a true box that is missing contributes 0, and so does each box
    too many: with one box on either side this is the IoU of the two, or 0 if their labels differ.
    No boxes on either side agree (1.0).
    """
    guessed, true = _by_label(generated), _by_label(truth)
    if not guessed and not true:
        return 1.0
    total, count = 0.0, 0
    for label in sorted(guessed.keys() | true.keys()):
        ours, theirs = guessed.get(label, []), true.get(label, [])
        count += max(len(ours), len(theirs))
        if ours and theirs:
            total += _greedy_sum(iou_matrix(np.array(ours), np.array(theirs)))
    return total / count


def iou_matrix(
    a: Float[np.ndarray, "n 4"], b: Float[np.ndarray, "m 4"]
) -> Float[np.ndarray, "n m"]:
    """Intersection over union of every box of `a` with every box of `b`, in [0, 1].

    Boxes are y1, x1, y2, x2 in any common unit with y1 <= y2 and x1 <= x2. Two equal boxes without
    area have an IoU of 1.
    """
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    intersection = np.prod(np.clip(high - low, 0.0, None), axis=-1)
    area_a, area_b = (np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1) for boxes in (a, b))
    union = area_a[:, None] + area_b[None, :] - intersection
    equal = (a[:, None] == b[None, :]).all(-1)
    return np.where(union > 0.0, intersection / np.where(union > 0.0, union, 1.0), equal)


def _greedy_sum(iou: Float[np.ndarray, "n m"]) -> float:
    """Sum over pairs, taken from the largest IoU down; each row and column is used once."""
    iou = iou.copy()
    total = 0.0
    for _ in range(min(iou.shape)):
        row, column = np.unravel_index(np.argmax(iou), iou.shape)
        total += float(iou[row, column])
        iou[row, :] = iou[:, column] = -1.0
    return total


def _by_label(objects: Iterable[tuple[Box, str]]) -> dict[str, list[Box]]:
    boxes = collections.defaultdict(list)
    for box, label in objects:
        boxes[_normalise(label)].append(box)
    return dict(boxes)


def _normalise(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(". ")


def _words(text: str) -> Sequence[str]:
    words = (word.strip(string.punctuation) for word in text.casefold().split())
    return [word for word in words if word]
