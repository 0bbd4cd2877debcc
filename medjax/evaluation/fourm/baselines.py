"""What takes no looking: the value of a modality that is closest to all of the training data's.

Each is one constant, fitted on training values that are streamed: whatever a model makes of its
input must be better than this.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from medjax.data.samples.sample import UNKNOWN, Box
from medjax.errors import UserError
from medjax.evaluation.baselines import most_frequent, usual_boxes
from medjax.evaluation.fourm.scores import pairs
from medjax.modalities.table import BOXES, IMAGE, LABELS, TEXT

# Thresholds that are tried on the share of a class at a pixel.
_THRESHOLDS = np.arange(1, 51) / 50.0


def constant(content: str, values: Iterable[Any], num_classes: int = 0) -> Any:
    """The constant for values of a content; see the functions below.

    Args:
      content: `Modality.content`, one of `BASELINES`.
      values: of the training samples, one by one; labels are run through twice, and so must be
        something that begins anew, not a generator.
      num_classes: of labels.

    Raises:
      UserError: a content that has no constant, or there are no values.
    """
    if content == LABELS:
        return mean_labels(values, num_classes)
    if content not in BASELINES:
        raise UserError(
            f"values of content {content!r} have no baseline, only those of {', '.join(BASELINES)}"
        )
    return BASELINES[content](values)


def mean_labels(
    labels: Iterable[Int[np.ndarray, "H W"]], num_classes: int
) -> Int[np.ndarray, "H W"]:
    """The mean mask: of each class but 0, where its share of the labels passes a threshold.

    A class's threshold is the one whose mask has the highest mean Dice over the samples. A pixel
    that passes several is of the class whose threshold it exceeds the most, in proportion; one that
    passes none is 0. Unknown labels (255) count nowhere.

    Args:
      labels: of each sample, all of a size; run through twice.

    Returns:
      int32 [H, W].

    Raises:
      UserError: there are no labels.
      ValueError: `labels` can be run through only once.
    """
    if iter(labels) is labels:
        raise ValueError("labels are run through twice; a generator ends after the first time")
    shares = _shares(labels, num_classes)
    thresholds = _best_thresholds(labels, shares)
    excess = shares / thresholds[:, None, None]
    return np.where(excess.max(0) >= 1.0, excess.argmax(0) + 1, 0).astype(np.int32)


def mean_image(images: Iterable[Float[np.ndarray, "H W C"]]) -> Float[np.ndarray, "H W C"]:
    """The mean of images of a size, float32.

    Raises:
      UserError: there are none.
    """
    total: Any = 0.0
    count = 0
    for image in images:
        total, count = total + np.asarray(image, np.float64), count + 1
    _check_some(count)
    return np.asarray(total / count, np.float32)


def most_frequent_text(texts: Iterable[str]) -> str:
    """The text that there is most often.

    Raises:
      UserError: there are none.
    """
    texts = list(texts)
    _check_some(len(texts))
    return most_frequent(texts)


def mean_boxes(samples: Iterable[Sequence[Box]]) -> tuple[Box, ...]:
    """A box for each label that more than half of the samples have, else for the commonest.

    Of the coordinate-wise median and the training boxes, it is the one that overlaps the training
    boxes best on average (`evaluation.baselines`).

    Raises:
      UserError: there are no samples.
    """
    samples = [tuple(boxes) for boxes in samples]
    _check_some(len(samples))
    some = next((boxes[0] for boxes in samples if boxes), None)
    if some is None:
        return ()
    make: Callable[..., Box] = type(some)
    return tuple(
        make(label=label, y1=y1, x1=x1, y2=y2, x2=x2)
        for (y1, x1, y2, x2), label in usual_boxes([pairs(boxes) for boxes in samples])
    )


BASELINES: dict[str, Callable[..., Any]] = {
    LABELS: mean_labels,
    IMAGE: mean_image,
    TEXT: most_frequent_text,
    BOXES: mean_boxes,
}


def _shares(
    labels: Iterable[Int[np.ndarray, "H W"]], num_classes: int
) -> Float[np.ndarray, "C H W"]:
    """The share of the classes 1, 2, ... among the known labels at each pixel."""
    classes = np.arange(1, num_classes)[:, None, None]
    counts: Any = 0
    known: Any = 0
    samples = 0
    for sample in labels:
        counts = counts + (sample == classes)
        known = known + (sample != UNKNOWN)
        samples += 1
    _check_some(samples)
    return counts / np.maximum(known, 1)


def _best_thresholds(
    labels: Iterable[Int[np.ndarray, "H W"]], shares: Float[np.ndarray, "C H W"]
) -> Float[np.ndarray, "C"]:
    """Of each class, the threshold on its share with the highest mean Dice."""
    # passed[c, y, x]: how many thresholds the share passes, so that a mask's size at every
    # threshold is a sum over a histogram of these.
    passed = np.searchsorted(_THRESHOLDS, shares, side="right")
    bins = len(_THRESHOLDS) + 1

    def sizes(of_class: Int[np.ndarray, "H W"], where: np.ndarray) -> np.ndarray:
        return np.bincount(of_class[where], minlength=bins)[:0:-1].cumsum()[::-1]

    total = np.zeros((len(shares), len(_THRESHOLDS)))
    for sample in labels:
        known = sample != UNKNOWN
        for index, of_class in enumerate(passed):
            true = sample == index + 1
            both = sizes(of_class, known) + true.sum()
            shared = 2.0 * sizes(of_class, true)
            total[index] += np.where(both > 0, shared / np.maximum(both, 1), 1.0)
    return _THRESHOLDS[total.argmax(1)]


def _check_some(count: int) -> None:
    if not count:
        raise UserError("there are no training values to fit a baseline to")
