import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medjax.evaluation import metrics
from medjax.evaluation.metrics import detection

WHOLE = "<loc0000><loc0000><loc1023><loc1023>"
LEFT = "<loc0000><loc0000><loc1023><loc0341>"  # the left third: 341 / 1023


def test_exact_match_forgives_case_space_and_final_periods_only():
    assert metrics.exact_match("  Axial. ", "axial") == 1.0
    assert metrics.exact_match("15 to\n25  percent", "15 to 25 percent") == 1.0
    assert metrics.exact_match("STRASSE", "straße") == 1.0
    assert metrics.exact_match("0.5", "05") == 0.0
    assert metrics.exact_match("axial, coronal", "axial coronal") == 0.0
    assert metrics.exact_match("", "axial") == 0.0


def test_token_f1_by_hand():
    # Shared: the, of, head (the second "the" has no partner): P = 3/5, R = 3/4, F1 = 6/9.
    generated = "The top of the head."
    truth = "side of the (head)"
    assert metrics.token_f1(generated, truth) == pytest.approx(6 / 9)
    assert metrics.token_f1(truth, generated) == pytest.approx(6 / 9)
    assert metrics.token_f1("", truth) == 0.0
    assert metrics.token_f1("?", "") == 1.0


def test_iou_matrix_by_hand():
    a = np.array([[0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 1.0, 1.0]])
    b = np.array([[1.0, 1.0, 3.0, 3.0], [1.0, 1.0, 1.0, 1.0], [5.0, 5.0, 6.0, 6.0]])
    # 1 of 4 + 4 - 1; a point in a box; apart. A point and itself agree, and fill nothing else.
    np.testing.assert_allclose(metrics.iou_matrix(a, b), [[1 / 7, 0.0, 0.0], [0.0, 1.0, 0.0]])


@given(st.lists(st.integers(0, 20), min_size=8, max_size=8))
def test_iou_counts_shared_pixels(corners):
    (y1, y2), (x1, x2), (v1, v2), (u1, u2) = (sorted(corners[i : i + 2]) for i in range(0, 8, 2))
    first, second = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    first[y1:y2, x1:x2] = True
    second[v1:v2, u1:u2] = True
    union = (first | second).sum()
    iou = metrics.iou_matrix(np.array([[y1, x1, y2, x2]]), np.array([[v1, u1, v2, u2]]))[0, 0]
    if union:
        assert iou == pytest.approx((first & second).sum() / union)
    else:
        assert iou in (0.0, 1.0)


def test_detection_iou_of_one_box():
    truth = f"{WHOLE} brain"
    assert metrics.detection_iou(f"{WHOLE} Brain.", truth) == pytest.approx(1.0)
    assert metrics.detection_iou(f"{LEFT} brain", truth) == pytest.approx(1 / 3)
    assert metrics.detection_iou(f"{WHOLE} white matter", truth) == 0.0


@pytest.mark.parametrize(
    "generated",
    [
        "",
        "brain",
        "<loc0000><loc0000><loc1023> brain",  # three of four
        "<loc0000><loc0000><loc1024><loc1023> brain",  # no such token
        "<loc1023><loc0000><loc0000><loc1023> brain",  # inside out
    ],
)
def test_malformed_boxes_score_nothing(generated):
    assert metrics.score("detect brain", generated, f"{WHOLE} brain") == {"iou": 0.0}


def test_detection_iou_matches_greedily_within_labels():
    half = "<loc0000><loc0000><loc1023><loc0682>"  # the left two thirds
    truth = f"{WHOLE} a ; {LEFT} a ; {LEFT} b"
    # a: (LEFT, LEFT) = 1 first, then (half, WHOLE) = 2/3; b is missed; c is one too many.
    generated = f"{half} a ; {LEFT} a ; {WHOLE} c"
    assert metrics.detection_iou(generated, truth) == pytest.approx((1 + 2 / 3) / 4)


def test_boxes_too_many_cost():
    assert metrics.detection_iou(f"{WHOLE} a ; {LEFT} a", f"{WHOLE} a") == pytest.approx(0.5)


def test_greedy_matching_equals_trying_pairs_in_order_of_iou():
    random = np.random.default_rng(0)
    iou = random.random((4, 3))
    pairs = sorted(((iou[i, j], i, j) for i in range(4) for j in range(3)), reverse=True)
    rows, columns, total = set(), set(), 0.0
    for value, i, j in pairs:
        if i not in rows and j not in columns:
            rows.add(i)
            columns.add(j)
            total += value
    assert detection.greedy_sum(iou) == pytest.approx(total)


@pytest.mark.parametrize(
    ("question", "truth", "task", "kind"),
    [
        ("detect brain", f"{WHOLE} brain", "", "detection"),
        ("where is it?", f"{WHOLE} brain", "", "detection"),
        ("detect tumour", "none", "", "detection"),
        ("caption en", "a slice", "", "caption"),
        ("Describe de", "ein Schnitt", "", "caption"),
        ("what do you see?", "a slice", "caption", "caption"),
        ("describe the lesion", "round", "", "question"),
        ("answer en which plane?", "axial", "plane", "question"),
    ],
)
def test_kinds(question, truth, task, kind):
    assert metrics.kind_of(question, truth, task) == kind


def test_scores_follow_the_kind():
    assert metrics.score("which plane?", "Axial", "axial") == {"exact_match": 1.0}
    assert metrics.score("caption en", "a b", "a c") == {"exact_match": 0.0, "token_f1": 0.5}
    assert metrics.score("detect tumour", "nothing", "none") == {"iou": 1.0}
    assert metrics.score("which plane?", "axial", " ") == {}
