"""Which validation questions are answered at each evaluation, and what is told of the answers."""

import numpy as np
import pytest

from medjax.data.example import Example
from medjax.evaluation import answered
from medjax.evaluation.predictions import from_example

TASKS = {
    "plane": ("which plane?", "axial"),
    "brain": ("detect brain", "<loc0000><loc0000><loc1023><loc1023> brain"),
    "caption": ("caption en", "a brain"),
}
SOURCE = [
    Example(f"q{i}", np.zeros((2, 2, 3), np.uint8), *TASKS[task], extra={"task": task})
    for i, task in enumerate(list(TASKS) * 20)
]


def test_one_of_each_stretch_always_the_same():
    chosen = answered.chosen(SOURCE, 20)
    numbers = [int(example.id[1:]) for example in (chosen[i] for i in range(len(chosen)))]
    assert [number // 3 for number in numbers] == list(range(20))
    # Each image's three questions come in the same order: at even steps all would be of one task.
    assert len({number % 3 for number in numbers}) == 3
    again = answered.chosen(SOURCE, 20)
    assert [again[i].id for i in range(20)] == [f"q{number}" for number in numbers]


def test_no_more_than_there_are_and_none_for_none():
    chosen = answered.chosen(SOURCE[:4], 9)
    assert [chosen[i].id for i in range(len(chosen))] == ["q0", "q1", "q2", "q3"]
    assert answered.chosen(SOURCE, 0) is None
    assert answered.chosen([], 5) is None


def test_means_of_metrics_and_of_what_stands_for_each_answer():
    said = ["Axial.", "coronal", "<loc0000><loc0000><loc1023><loc0341> brain", "a brain", "a skull"]
    asked = [SOURCE[0], SOURCE[3], SOURCE[1], SOURCE[2], SOURCE[5]]
    unscored = from_example(Example("u", SOURCE[0].pixels, "which plane?"), "axial")
    figures = answered.figures(
        [*(from_example(e, text) for e, text in zip(asked, said, strict=True)), unscored]
    )
    iou = 342 / 1024
    # Exact match is of the two questions alone, though one caption is the true one.
    assert figures == {
        "exact_match": 0.5,
        "iou": pytest.approx(iou, abs=2e-3),
        "token_f1": 0.75,
        "score": pytest.approx((1 + 0 + iou + 1 + 0.5) / 5, abs=1e-3),
    }


def test_names_are_known_before_anything_is_answered():
    assert set(answered.names(SOURCE[:3])) == {"exact_match", "iou", "token_f1", "score"}
    assert set(answered.names(SOURCE[:1])) == {"exact_match", "score"}
    assert answered.names(None) == ()
