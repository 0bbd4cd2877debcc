"""A direction, and how a value that was made in it is scored against the true one.

| content of the target | scores |
|---|---|
| labels | `dice` of each class but 0, and their mean |
| image | `psnr`, dB |
| text | `exact_match`, `token_f1` |
| boxes | `iou` |
| ids | `token_accuracy` |
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from medjax.data.loc_tokens import Box as Corners
from medjax.data.samples.sample import UNKNOWN, Box
from medjax.errors import UserError
from medjax.evaluation import metrics
from medjax.evaluation.metrics import masks
from medjax.modalities.table import BOXES, IDS, IMAGE, LABELS, MODALITIES, TEXT, Modality, lookup

# Where a PSNR ends, dB: equal images would have an infinite one.
_MAX_PSNR = 100.0

# The score that stands for a value of each content where there is room for one.
MAIN_METRIC = {
    LABELS: "dice",
    IMAGE: "psnr",
    TEXT: "token_f1",
    BOXES: "iou",
    IDS: "token_accuracy",
}


@dataclasses.dataclass(frozen=True)
class Direction:
    """What is given and what is made of it, by the names of modalities."""

    given: tuple[str, ...]
    target: str

    def __str__(self) -> str:
        return f"{','.join(self.given)} -> {self.target}"


def parse(text: str, modalities: Mapping[str, Modality] = MODALITIES) -> Direction:
    """Reads a direction, such as "t1 -> tok_tissue" or "t1,caption -> tok_tissue".

    Args:
      modalities: the table of those that there are.

    Raises:
      UserError: not of that form, a modality twice or unknown, or a target that no model predicts.
    """
    left, arrow, right = text.partition("->")
    given, target = tuple(name.strip() for name in left.split(",")), right.strip()
    where = f"direction {text!r}"
    if not arrow or not all((*given, target)) or "->" in target or "," in target:
        raise UserError(
            f"{where}: write what is given, an arrow, and one modality to make of it, such as "
            "'t1,caption -> tok_tissue'"
        )
    names = (*given, target)
    if len(set(names)) < len(names):
        raise UserError(f"{where} names a modality twice")
    for name in names:
        modality = lookup(name, modalities, where=where)
    if not modality.has_ids:
        raise UserError(
            f"{where}: {target} has no ids to predict; make the tokens of a tokenizer instead"
        )
    return Direction(given, target)


def score(content: str, made: Any, true: Any, classes: Sequence[str] = ()) -> dict[str, float]:
    """Scores one value; every score is finite, and 1 is best of all but `psnr`.

    Args:
      content: of the target (`Modality.content`).
      made, true: labels [H, W]; images [H, W, C] in [-1, 1]; texts; boxes; or ids [n].
      classes: of labels, the names of the classes from 0 on.

    Raises:
      UserError: a content that there is no score for.
      ValueError: shapes that differ, or labels without `classes`.
    """
    if content == LABELS:
        return label_scores(made, true, classes)
    if content == IMAGE:
        return {"psnr": psnr(made, true)}
    if content == TEXT:
        return {
            "token_f1": metrics.token_f1(made, true),
            "exact_match": metrics.exact_match(made, true),
        }
    if content == BOXES:
        return {"iou": metrics.mean_iou(pairs(made), pairs(true))}
    if content == IDS:
        return {"token_accuracy": token_accuracy(made, true)}
    raise UserError(
        f"there is no score for values of content {content!r}, only for {', '.join(MAIN_METRIC)}"
    )


def label_scores(
    made: Int[np.ndarray, "H W"], true: Int[np.ndarray, "H W"], classes: Sequence[str]
) -> dict[str, float]:
    """Dice of each class but 0 as "dice/<its name>", and their mean as "dice".

    Raises:
      ValueError: shapes that differ, or fewer than two classes.
    """
    if len(classes) < 2:
        raise ValueError(f"Dice needs the names of two classes or more, not {list(classes)}")
    values = dice(made, true, len(classes))
    of_class = {f"dice/{name}": float(v) for name, v in zip(classes[1:], values, strict=True)}
    return {"dice": float(values.mean()), **of_class}


def dice(
    made: Int[np.ndarray, "H W"], true: Int[np.ndarray, "H W"], num_classes: int
) -> Float[np.ndarray, "num_classes-1"]:
    """Dice's coefficient of the classes 1, 2, ...: shared pixels over their mean number, in [0, 1].

    A class that neither has is 1. Pixels whose true class is unknown (255) count nowhere.

    Raises:
      ValueError: shapes that differ.
    """
    made, true = np.asarray(made), np.asarray(true)
    _check_shapes(made, true)
    known = true != UNKNOWN
    classes = np.arange(1, num_classes)[:, None]
    return masks.dice(made[known] == classes, true[known] == classes)


def psnr(made: ArrayLike, true: ArrayLike) -> float:
    """Peak signal-to-noise ratio of pixels in [-1, 1], dB: 10 log10(4 / mean squared error).

    `made` is clipped to [-1, 1], as whoever looks at it will see it. At most 100 dB.

    Raises:
      ValueError: shapes that differ.
    """
    made, true = np.clip(np.asarray(made, np.float64), -1.0, 1.0), np.asarray(true, np.float64)
    _check_shapes(made, true)
    error = np.mean((made - true) ** 2) / 4.0
    return float(-10.0 * np.log10(max(error, 10.0 ** (-_MAX_PSNR / 10.0))))


def token_accuracy(made: Int[np.ndarray, "n"], true: Int[np.ndarray, "m"]) -> float:
    """The share of places with the same id; what one sequence is longer by counts as wrong."""
    made, true = np.ravel(made), np.ravel(true)
    length = min(len(made), len(true))
    longest = max(len(made), len(true))
    return float((made[:length] == true[:length]).sum() / longest) if longest else 1.0


def pairs(boxes: Sequence[Box]) -> list[tuple[Corners, str]]:
    """Boxes as `evaluation.metrics` has them."""
    return [((box.y1, box.x1, box.y2, box.x2), box.label) for box in boxes]


def _check_shapes(made: np.ndarray, true: np.ndarray) -> None:
    if made.shape != true.shape:
        raise ValueError(f"a value of {made.shape} was made, but the true one has {true.shape}")
