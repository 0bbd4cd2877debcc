"""The answer that takes no looking: what the training split says most often.

For detection it is a constant box: of the coordinate-wise median and the training boxes themselves,
the one that overlaps the training boxes best on average.
"""

import collections
import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from medjax.data.example import Example
from medjax.data.loc_tokens import LOC_TOKENS, NUM_LOC, Box, decode_boxes, encode_objects
from medjax.evaluation import metrics
from medjax.evaluation.predictions import Prediction, from_example, task_of

# What results call it.
MAJORITY = "majority answer"

# How many training boxes are tried, and on how many; more changes the choice by hairs.
_MAX_BOXES = 500


@dataclasses.dataclass(frozen=True)
class Majority:
    """Constant answers, learned from training examples.

    Attributes:
      by_task: the answer to each task.
      by_question: the answer to each (task, question) of detection, whose questions name what to
        find; it comes first.
    """

    by_task: Mapping[str, str]
    by_question: Mapping[tuple[str, str], str]

    @classmethod
    def fit(cls, examples: Iterable[Example]) -> "Majority":
        """Learns from training examples; those without an answer are passed over."""
        answers: dict[str, list[str]] = collections.defaultdict(list)
        detections: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
        for example in examples:
            if not example.suffix.strip():
                continue
            task = task_of(example)
            answers[task].append(example.suffix)
            if metrics.kind_of(example.prefix, example.suffix, task) == "detection":
                detections[task, example.prefix].append(example.suffix)
        return cls(
            by_task={task: _constant_answer(texts) for task, texts in answers.items()},
            by_question={key: _constant_answer(texts) for key, texts in detections.items()},
        )

    def answer(self, example: Example) -> str:
        """The constant answer; empty for a task that training did not have."""
        task = task_of(example)
        known = self.by_question.get((task, example.prefix))
        return self.by_task.get(task, "") if known is None else known

    def predict(self, examples: Iterable[Example], *, group_key: str = "slab") -> list[Prediction]:
        """Answers examples and scores the answers, exactly as a model's are."""
        return [
            from_example(example, self.answer(example), group_key=group_key) for example in examples
        ]


def most_frequent(texts: Iterable[str]) -> str:
    """The text that occurs most often; of several, the first by the alphabet."""
    counts = collections.Counter(texts)
    return min(counts, key=lambda text: (-counts[text], text))


def usual_boxes(parsed: Sequence[Sequence[tuple[Box, str]]]) -> list[tuple[Box, str]]:
    """A constant box for each label that there is more often than not, or for the commonest.

    Args:
      parsed: the boxes and labels of each example; at least one box.
    """
    boxes: dict[str, list[Box]] = collections.defaultdict(list)
    for objects in parsed:
        for box, label in objects:
            boxes[label].append(box)
    usual = [label for label in boxes if 2 * len(boxes[label]) > len(parsed)]
    if not usual:
        usual = [max(boxes, key=lambda label: len(boxes[label]))]
    return [(_constant_box(boxes[label]), label) for label in usual]


def _constant_answer(answers: Sequence[str]) -> str:
    """Constant boxes if most answers have boxes, else the most frequent answer."""
    parsed = [decode_boxes(answer) for answer in answers]
    if 2 * sum(map(bool, parsed)) <= len(answers):
        return most_frequent(answers)
    return encode_objects((_tokens(box), label) for box, label in usual_boxes(parsed))


def _constant_box(boxes: Sequence[Box]) -> Box:
    """The candidate with the highest mean IoU with `boxes`."""
    step = -(-len(boxes) // _MAX_BOXES)
    some = np.array(boxes[::step])
    median = tuple(statistics.median(column) for column in zip(*boxes, strict=True))
    candidates = np.concatenate([np.array([median]), some])
    best = int(np.argmax(metrics.iou_matrix(candidates, some).mean(axis=1)))
    y1, x1, y2, x2 = (float(c) for c in candidates[best])
    return y1, x1, y2, x2


def _tokens(box: Box) -> str:
    return "".join(LOC_TOKENS[round(c * (NUM_LOC - 1))] for c in box)
