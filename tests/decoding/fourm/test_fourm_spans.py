"""Sequences with holes, by hand."""

from medjax.decoding.fourm import spans

SENTINELS = {5, 6, 7}


def test_holes_are_filled():
    known, written = [10, 5, 11, 6, 12], [5, 20, 21, 6, 22, 7]
    assert spans.merge(known, written, SENTINELS) == [10, 20, 21, 11, 22, 12]


def test_what_has_no_place_is_dropped_and_what_has_no_text_is_empty():
    assert spans.merge([10, 5, 11, 6], [20, 5, 7, 21], SENTINELS) == [10, 11]
    assert spans.merge([], [5, 20], SENTINELS) == []
    assert spans.merge([5], [], SENTINELS) == []


def test_a_sentinel_that_comes_twice_goes_on():
    assert spans.merge([5, 10], [5, 20, 6, 21, 5, 22], SENTINELS) == [20, 22, 10]
    assert spans.merge([5, 10, 5], [5, 20], SENTINELS) == [20, 10, 20]
