"""Boxes survive the way to words and back, and malformed answers yield no boxes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medjax.data import loc_tokens
from medjax.errors import UserError

FULL = "<loc0000><loc0000><loc1023><loc1023>"


def test_tokens_are_gemmas():
    assert loc_tokens.LOC_TOKENS[7] == "<loc0007>"
    assert loc_tokens.LOC_TOKENS[-1] == "<loc1023>"
    assert loc_tokens.SEG_TOKENS[7] == "<seg007>"
    assert loc_tokens.SEG_TOKENS[-1] == "<seg127>"
    assert len(loc_tokens.EXTRA_TOKENS) == 1152
    assert (loc_tokens.GEMMA_LOC_IDS[0], loc_tokens.GEMMA_LOC_IDS[-1]) == (256000, 257023)
    assert (loc_tokens.GEMMA_SEG_IDS[0], loc_tokens.GEMMA_SEG_IDS[-1]) == (257024, 257151)


def test_regexes_match_exactly_the_tokens():
    for token in loc_tokens.EXTRA_TOKENS:
        assert loc_tokens.EXTRA_REGEX.fullmatch(token)
    for text in ["<loc1024>", "<loc12>", "<loc00001>", "<seg128>", "<seg01>", "<LOC0001>"]:
        assert not loc_tokens.EXTRA_REGEX.search(text)
    assert not loc_tokens.LOC_REGEX.search("<loc\u0660\u0660\u0660\u0661>")  # Arabic digits


def test_encode_box_by_hand():
    # 10/100*1024 = 102.4, 20/200*1024 = 102.4, 50/100*1024 = 512, 150/200*1024 = 768
    assert loc_tokens.encode_box((10, 20, 50, 150), 100, 200) == (
        "<loc0102><loc0102><loc0512><loc0768>"
    )
    assert loc_tokens.encode_box((0, 0, 100, 200), 100, 200) == FULL
    assert loc_tokens.encode_box((-5, -5, 300, 300), 100, 200) == FULL
    assert loc_tokens.encode_box(np.array([0, 0, 100, 200]), 100, 200) == FULL


@pytest.mark.parametrize(
    ("box", "size", "message"),
    [
        ((0, 0, 1), (10, 10), "four finite"),
        ((0, 0, float("nan"), 1), (10, 10), "four finite"),
        ((5, 0, 1, 1), (10, 10), "inside out"),
        ((0, 5, 1, 1), (10, 10), "inside out"),
        ((0, 0, 1, 1), (0, 10), "pixels in it"),
    ],
)
def test_encode_box_refuses(box, size, message):
    with pytest.raises(UserError, match=message):
        loc_tokens.encode_box(box, *size)


@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    fractions=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_round_trip_is_within_one_bin(height, width, fractions):
    y1, y2 = sorted(fractions[:2])
    x1, x2 = sorted(fractions[2:])
    text = loc_tokens.encode_box((y1 * height, x1 * width, y2 * height, x2 * width), height, width)
    [(box, label)] = loc_tokens.decode_boxes(f"{text} white matter")
    assert label == "white matter"
    np.testing.assert_allclose(box, (y1, x1, y2, x2), atol=1 / 1023)


def test_decode_several_objects():
    two = loc_tokens.encode_objects([(FULL, "brain"), ("<loc0000>" * 4, "dot")])
    assert two == f"{FULL} brain ; <loc0000><loc0000><loc0000><loc0000> dot"
    assert loc_tokens.decode_boxes(two) == [
        ((0.0, 0.0, 1.0, 1.0), "brain"),
        ((0.0, 0.0, 0.0, 0.0), "dot"),
    ]


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("", []),
        ("no box here", []),
        ("<loc0000><loc0000><loc1023> brain", []),
        ("<loc0000><loc0000><loc1023><loc1024> brain", []),
        ("<loc0900><loc0000><loc0100><loc0100> inside out", []),
        ("<loc0000><loc0000> ; " + FULL + " brain", ["brain"]),
        (FULL, [""]),
        (FULL + "brain", ["brain"]),
        (FULL + "<seg000><seg127> brain", ["brain"]),
        (FULL.replace("><", "> <") + " brain ;", ["brain"]),
        (FULL + "<loc0001> brain", [""]),
        (FULL + " brain\n" + FULL + "tail", ["brain", "tail"]),
        ("There is " + FULL + " a ; and <loc0001> and " + FULL + " b", ["a", "b"]),
    ],
)
def test_decode_tolerates_malformed_answers(text, labels):
    assert [label for _, label in loc_tokens.decode_boxes(text)] == labels


@given(st.text(alphabet="<>loc0123 ;ab", max_size=80))
def test_decode_never_fails(text):
    for box, _ in loc_tokens.decode_boxes(text):
        assert all(0 <= c <= 1 for c in box)
