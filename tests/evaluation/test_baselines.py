import numpy as np
import pytest

from medjax.data.example import Example
from medjax.data.loc_tokens import decode_boxes, encode_box
from medjax.evaluation.baselines import Majority

PIXELS = np.zeros((4, 4, 3), np.uint8)


def ask(id, prefix, suffix, task, slab="s"):
    return Example(id, PIXELS, prefix, suffix, "image", {"task": task, "slab": slab})


def test_majority_by_task_across_phrasings():
    train = [
        ask("1", "which plane?", "axial", "plane"),
        ask("2", "name the plane", "coronal", "plane"),
        ask("3", "which plane?", "coronal", "plane"),
        ask("4", "how high?", "top", "level"),
        ask("5", "how high?", "", "level"),
    ]
    test = [
        ask("a", "what plane?", "Coronal", "plane", "s1"),
        ask("b", "what plane?", "axial", "plane", "s2"),
        ask("c", "how high?", "top", "level"),
        ask("d", "new?", "yes", "unseen"),
    ]
    made = Majority.fit(train).predict(test)
    assert [p.generated for p in made] == ["coronal", "coronal", "top", ""]
    assert [p.scores["exact_match"] for p in made] == [1.0, 0.0, 1.0, 0.0]
    assert [p.group for p in made[:2]] == ["s1", "s2"]
    assert made[0].log_prob is None


def test_ties_do_not_depend_on_order():
    train = [ask("1", "?", "b", "t"), ask("2", "?", "a", "t")]
    assert Majority.fit(train).by_task == Majority.fit(train[::-1]).by_task == {"t": "a"}


def box(y1, x1, y2, x2, label):
    return f"{encode_box((y1, x1, y2, x2), 100, 100)} {label}"


def test_constant_box_is_each_object_own_and_the_best_of_its_kind():
    train = [ask(f"b{i}", "detect brain", box(0, 0, 50 + i, 50, "brain"), "d") for i in range(5)]
    train += [ask("m", "detect matter", box(60, 60, 90, 90, "matter"), "d")]
    # An outlier drags a mean but neither a median nor the best box.
    train += [ask("o", "detect brain", box(90, 90, 99, 99, "brain"), "d")]
    majority = Majority.fit(train)
    [(found, label)] = decode_boxes(majority.answer(ask("x", "detect brain", "", "d")))
    assert label == "brain"
    assert found == pytest.approx((0, 0, 0.52, 0.5), abs=0.011)
    matter = majority.answer(ask("x", "detect matter", "", "d"))
    assert matter == box(60, 60, 90, 90, "matter")
    [(_, label)] = decode_boxes(majority.answer(ask("x", "detect other", "", "d")))
    assert label == "brain"  # the task's own answer for an object never asked for


def test_several_objects_in_one_answer():
    both = f"{box(0, 0, 50, 50, 'a')} ; {box(50, 50, 90, 90, 'b')}"
    train = [ask(str(i), "detect a ; b", both, "d") for i in range(3)]
    [prediction] = Majority.fit(train).predict([ask("x", "detect a ; b", both, "d")])
    assert prediction.generated == both
    assert prediction.scores == {"iou": 1.0}
