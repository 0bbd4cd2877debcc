import dataclasses
import math

import numpy as np
import pytest

from medjax.errors import UserError
from medjax.evaluation import metrics
from medjax.evaluation.fourm import scores
from medjax.evaluation.fourm.scores import Direction


@dataclasses.dataclass(frozen=True)
class Box:
    label: str
    y1: float
    x1: float
    y2: float
    x2: float


def test_directions_are_read_and_written():
    direction = scores.parse(" rgb,caption->tok_semseg ")
    assert direction == Direction(("rgb", "caption"), "tok_semseg")
    assert str(direction) == "rgb,caption -> tok_semseg"
    assert scores.parse(str(direction)) == direction


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rgb", "an arrow"),
        ("rgb -> ", "an arrow"),
        (" -> tok_rgb", "an arrow"),
        ("rgb,, caption -> tok_rgb", "an arrow"),
        ("rgb -> caption, det", "an arrow"),
        ("rgb -> caption -> det", "an arrow"),
        ("rgb, rgb -> det", "twice"),
        ("det -> det", "twice"),
        ("rgb -> nonesuch", "'nonesuch' is none of"),
        ("caption -> rgb", "no ids to predict"),
    ],
)
def test_bad_directions_are_told_of(text, said):
    with pytest.raises(UserError, match=said) as error:
        scores.parse(text)
    assert repr(text) in str(error.value)


def test_dice_of_each_class():
    random = np.random.default_rng(0)
    made, true = random.integers(0, 4, (2, 9, 7))
    true[:2] = scores.UNKNOWN
    expected = []
    for c in (1, 2, 3, 4):
        a = {p for p in np.ndindex(9, 7) if made[p] == c and p[0] >= 2}
        b = {p for p in np.ndindex(9, 7) if true[p] == c}
        expected.append(2 * len(a & b) / (len(a) + len(b)) if a or b else 1.0)
    assert expected[3] == 1.0  # a class that neither has
    found = scores.score("labels", made, true, ["none", "a", "b", "c", "d"])
    assert list(found) == ["dice", "dice/a", "dice/b", "dice/c", "dice/d"]
    np.testing.assert_allclose(list(found.values())[1:], expected, rtol=1e-12)
    assert found["dice"] == pytest.approx(sum(expected) / 4)


def test_psnr():
    random = np.random.default_rng(0)
    made, true = random.uniform(-1, 1, (2, 5, 6, 3)).astype(np.float32)
    total = sum((float(a) - float(b)) ** 2 for a, b in zip(made.flat, true.flat, strict=True))
    expected = 20 * math.log10(2 / math.sqrt(total / made.size))
    assert scores.score("image", made, true) == {"psnr": pytest.approx(expected)}
    assert scores.psnr(true, true) == 100.0
    ones = np.ones((2, 2, 1))
    assert scores.psnr(7 * ones, -ones) == 0.0  # clipped before it is compared


def test_texts_boxes_and_ids():
    assert scores.score("text", "A slice, axial.", "a slice") == {
        "token_f1": pytest.approx(0.8),
        "exact_match": 0.0,
    }
    whole, half = Box("brain", 0, 0, 1, 1), Box("brain", 0, 0, 1, 0.5)
    assert scores.score("boxes", [half], [whole]) == {"iou": 0.5}
    assert scores.score("boxes", [half], [whole, Box("lesion", 0, 0, 1, 1)]) == {"iou": 0.25}
    assert scores.score("boxes", [], [whole]) == {"iou": 0.0}
    assert scores.score("boxes", [], []) == {"iou": 1.0}
    assert scores.score("ids", [1, 2, 3], [1, 5, 3, 4]) == {"token_accuracy": 0.5}


def test_every_content_has_its_main_score():
    mask, image = np.zeros((2, 2), int), np.zeros((2, 2, 1))
    values = {"labels": mask, "image": image, "text": "a", "boxes": [], "ids": [1]}
    assert values.keys() == scores.MAIN_METRIC.keys()
    for content, value in values.items():
        found = scores.score(content, value, value, ["none", "a"])
        assert next(iter(found)) == scores.MAIN_METRIC[content]
        assert found[scores.MAIN_METRIC[content]] == (100.0 if content == "image" else 1.0)


def test_what_cannot_be_scored():
    with pytest.raises(UserError, match="'sound'"):
        scores.score("sound", 1, 1)
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        scores.dice(np.zeros((2, 2)), np.zeros((2, 3)), 3)
    with pytest.raises(ValueError, match="two classes"):
        scores.score("labels", np.zeros((2, 2)), np.zeros((2, 2)))


def test_answers_of_paligemma_have_the_same_score():
    true = "<loc0000><loc0000><loc1023><loc1023> brain"
    made = "<loc0000><loc0000><loc1023><loc0341> Brain ; <loc0000><loc0000><loc0341><loc0341> x"
    same = scores.score("boxes", [Box("brain", 0, 0, 1, 1 / 3), Box("x", 0, 0, 0.3, 0.3)], [
        Box("brain", 0, 0, 1, 1)
    ])  # fmt: skip
    assert metrics.detection_iou(made, true) == pytest.approx(same["iou"], abs=1e-3)
