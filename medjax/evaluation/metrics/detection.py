"""Boxes: how well they overlap, and average precision as COCO defines it."""

import collections
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from medjax.data.loc_tokens import Box, decode_boxes
from medjax.evaluation.bootstrap import OfSets
from medjax.evaluation.metrics.kinds import Answer, normalise

# COCO's: recalls at which precision is read, and boxes of one label that an image may have.
_RECALLS = np.linspace(0.0, 1.0, 101)
_MOST_BOXES = 100
# A threshold of 1 means this, as in pycocotools.
_SAME = 1.0 - 1e-10


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
            total += greedy_sum(iou_matrix(np.array(ours), np.array(theirs)))
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


def greedy_sum(iou: Float[np.ndarray, "n m"]) -> float:
    """Sum over pairs, taken from the best overlap down; each row and column is used once."""
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
        boxes[normalise(label)].append(box)
    return dict(boxes)


def average_precision(
    thresholds: Sequence[float], answers: Sequence[Answer], groups: Int[np.ndarray, "answers"]
) -> OfSets:
    """Mean average precision of sets that hold each group of answers some number of times.

    As COCO defines it (Lin et al., arXiv:1405.0312, and pycocotools): an answer is an image; within
    each label (case and spaces aside) the boxes of an answer, surest first and at most 100, take
    the free true box that they overlap most, if that is by the threshold or more; precision, made
    monotonic, is read at 101 recalls; means over labels that occur in the truth, and thresholds.
    The boxes of one answer are as sure as the whole answer, all alike if the system does not say.

    Args:
      thresholds: of IoU.
      answers: the whole set.
      groups: the number of each answer's group, from 0 on.

    Returns:
      What computes it, in [0, 1], of how often each group is in a set; nan without a true box.
    """
    by_label = _labelled(answers, groups)
    found = {
        label: [_matched(images, threshold) for threshold in thresholds]
        for label, images in by_label.items()
    }

    def of_sets(counts: Float[np.ndarray, "samples groups"]) -> Float[np.ndarray, "samples"]:
        total = np.zeros(len(counts))
        labels = np.zeros(len(counts))
        for label, images in by_label.items():
            weights = np.array([len(image.true) for image in images], np.float64)
            true = counts[:, [image.group for image in images]] @ weights
            of_label = [_precision(hits, owners, counts, true) for hits, owners in found[label]]
            total += np.where(true > 0, np.mean(of_label, axis=0), 0.0)
            labels += true > 0
        return np.where(labels > 0, total / np.maximum(labels, 1), np.nan)

    return of_sets


class _Image(NamedTuple):
    """The boxes of one label in one answer."""

    group: int
    confidence: float
    made: list[Box]
    true: list[Box]


def _labelled(
    answers: Sequence[Answer], groups: Int[np.ndarray, "answers"]
) -> dict[str, list[_Image]]:
    """The answers' boxes by label; labels that the truth does not have are left out."""
    images: dict[str, list[_Image]] = collections.defaultdict(list)
    for answer, group in zip(answers, groups, strict=True):
        made, true = (_by_label(decode_boxes(t)) for t in (answer.generated, answer.truth))
        sure = 1.0 if answer.confidence is None else answer.confidence
        for label in sorted(made.keys() | true.keys()):
            boxes = made.get(label, [])[:_MOST_BOXES]
            images[label].append(_Image(int(group), sure, boxes, true.get(label, [])))
    return {label: of_label for label, of_label in images.items() if any(i.true for i in of_label)}


def _matched(
    images: Sequence[_Image], threshold: float
) -> tuple[Bool[np.ndarray, "boxes"], Int[np.ndarray, "boxes"]]:
    """Whether each box, surest first, finds a true one, and the group that it is of."""
    hits, owners = [], []
    for image in sorted(images, key=lambda image: -image.confidence):  # in order where equal
        free = np.ones(len(image.true), bool)
        for row in _overlaps(image):
            overlap = np.where(free, row, -1.0)
            hit = overlap.max(initial=-1.0) >= min(threshold, _SAME)
            if hit:
                # The last of several that overlap equally, as in pycocotools.
                free[np.flatnonzero(overlap == overlap.max())[-1]] = False
            hits.append(hit)
            owners.append(image.group)
    return np.array(hits, bool), np.array(owners, np.int64)


def _overlaps(image: _Image) -> Float[np.ndarray, "made true"]:
    if not image.made or not image.true:
        return np.zeros((len(image.made), len(image.true)))
    return iou_matrix(np.array(image.made), np.array(image.true))


def _precision(
    hits: Bool[np.ndarray, "boxes"],
    owners: Int[np.ndarray, "boxes"],
    counts: Float[np.ndarray, "samples groups"],
    true: Float[np.ndarray, "samples"],
) -> Float[np.ndarray, "samples"]:
    """Average precision of one label; 0 where a set has none of its boxes."""
    if not len(hits):
        return np.zeros(len(counts))
    weights = counts[:, owners]
    right = np.cumsum(weights * hits, axis=1)
    precision = right / np.maximum(np.cumsum(weights, axis=1), 1.0)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = right / np.maximum(true, 1.0)[:, None]
    reached = np.stack([np.searchsorted(row, _RECALLS, side="left") for row in recall])
    ends = np.pad(precision, ((0, 0), (0, 1)))  # recalls that are not reached: 0
    return np.take_along_axis(ends, reached, axis=1).mean(1)
