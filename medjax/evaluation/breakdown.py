"""Results by what is known of the examples: modality, plane, the length of the answer, ...

A key is one of `Prediction.extra`, "task", or "answer_length": words of the true answer, in bins.
"""

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from medjax.errors import UserError
from medjax.evaluation.metrics.kinds import tokens

ANSWER_LENGTH = "answer_length"
OTHER, UNKNOWN = "other", "not known"
# Of a key so many values have results of their own, the most frequent ones.
MOST_VALUES = 20
# The least number of words of each bin of lengths.
_BINS = (1, 2, 4, 8, 16, 32, 64)


class Known(Protocol):
    """What is read of an example; the fields are those of `predictions.Prediction`."""

    @property
    def task(self) -> str: ...
    @property
    def truth(self) -> str: ...
    @property
    def extra(self) -> Mapping[str, Any]: ...


def check(keys: Iterable[str], extras: Iterable[Mapping[str, Any]]) -> None:
    """Makes sure that there are results by some keys.

    Args:
      keys: as in the module's docstring.
      extras: what is known of the examples; read until every key was found.

    Raises:
      UserError: no example has one of the keys.
    """
    known = dict.fromkeys(("task", ANSWER_LENGTH))
    lacking = [key for key in keys if key not in known]
    for extra in extras:
        if not lacking:
            return
        known |= dict.fromkeys(extra)
        lacking = [key for key in lacking if key not in extra]
    if lacking:
        raise UserError(
            f"There are no results by {', '.join(map(repr, lacking))}, which no example has: name "
            f"some of {', '.join(known)}."
        )


def label(example: Known, key: str) -> str:
    """What the example has under a key, as a text; `UNKNOWN` if nothing."""
    if key == "task":
        return example.task
    if key == ANSWER_LENGTH:
        return _bin(len(tokens(example.truth)))
    value = example.extra.get(key)
    if isinstance(value, list | tuple | set):
        value = ", ".join(map(str, value))
    return " ".join(str(value).split()) if value not in (None, "") else UNKNOWN


def labels(examples: Sequence[Known], key: str) -> tuple[list[str], list[str]]:
    """The label of each example, and the labels in the order in which results show them.

    All but the `MOST_VALUES` most frequent ones become `OTHER`. Lengths are in their order, others
    from the most frequent on; `OTHER` and `UNKNOWN` come last.
    """
    found = [label(example, key) for example in examples]
    counts = collections.Counter(found)
    order = sorted(counts.keys() - {UNKNOWN, OTHER}, key=lambda text: (-counts[text], text))
    kept = set(order[:MOST_VALUES]) | {UNKNOWN}
    found = [text if text in kept else OTHER for text in found]
    order = order[:MOST_VALUES]
    if key == ANSWER_LENGTH:
        bins = [_bin(low) for low in _BINS]
        order.sort(key=bins.index)
    last = [text for text in (OTHER, UNKNOWN) if text in set(found)]
    return found, [*order, *last]


def _bin(words: int) -> str:
    """For example "4 to 7 words"; of a text without words `UNKNOWN`."""
    if words < _BINS[0]:
        return UNKNOWN
    for low, end in zip(_BINS, (*_BINS[1:], None), strict=True):
        if end is None:
            return f"{low} words or more"
        if words < end:
            return f"{low} word" if end == 2 else f"{low} to {end - 1} words"
    raise AssertionError
