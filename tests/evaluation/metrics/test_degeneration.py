import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medjax.evaluation import metrics
from medjax.evaluation.metrics import degeneration as d


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("cec. cec. cec.", 1.0),
        ("cec cec", 1.0),
        ("cec", 0.0),
        ("", 0.0),
        ("a cyst, a cyst, a cyst in the liver", 6 / 9),
        ("the liver and the spleen", 0.0),
        ("left lung left lung left", 1.0),  # begun a third time
        ("no no, it is is is", 3 / 6),
        ("肿块肿块肿块", 1.0),
    ],
)
def test_repetition(text, share):
    assert d.repetition(text) == pytest.approx(share)


@given(st.lists(st.sampled_from("ab"), max_size=14))
def test_repetition_is_the_longest_periodic_stretch(letters):
    size, longest = len(letters), 0
    for start in range(size):
        for end in range(start + 2, size + 1):
            part = letters[start:end]
            longest = max(
                [longest]
                + [len(part) for n in range(1, len(part) // 2 + 1) if part[n:] == part[:-n]]
            )
    assert d.repetition(" ".join(letters)) == pytest.approx(longest / size if size else 0.0)


def test_a_long_sentence_over_and_over_is_seen():
    sentence = " ".join(f"w{i}" for i in range(60))
    assert d.repetition(" ".join([sentence] * 3)) == 1.0


def test_distinct_by_hand():
    assert d.distinct("a b a b a", 1) == pytest.approx(2 / 5)
    assert d.distinct("a b a b a", 2) == pytest.approx(2 / 4)
    assert d.distinct("a", 2) == 1.0


def test_length_and_whether_anything_was_said():
    assert d.length("Two words, 3.5 of") == 5
    assert d.length("") == 0
    assert [d.answered(text) for text in ("no", " .\n", "", "3", "肺")] == [1, 0, 0, 1, 1]


def test_no_truth_is_needed():
    scores = metrics.score("what?", "cec cec", "", names=["all"])
    assert scores == {
        "length": 2, "distinct_1": 0.5, "distinct_2": 1, "repetition": 1, "answer_rate": 1,
    }  # fmt: skip
    assert all(np.isfinite(list(scores.values())))
    boxes = metrics.score("detect lung", "nothing", "<loc0000>" * 4, names=["degeneration"])
    assert boxes == {"answer_rate": 1.0}
