"""Sequences with holes: sentinels mark what is missing, and begin what fills it.

As in apple/ml-4m, `fourm/utils/tokenizer/text_tokenizer.py`, whose text has the form of T5's
(arXiv:1910.10683):

    known    a  [S_1]  brain   [S_2]
    written  [S_1]  T1  of a   [S_2]  .  [S_3]
    merged   a  T1  of a  brain  .
"""

from collections.abc import Collection, Sequence


def merge(known: Sequence[int], written: Sequence[int], sentinels: Collection[int]) -> list[int]:
    """What is known, with every sentinel replaced by what was written behind it.

    Args:
      known: ids, each sentinel where something is missing.
      written: ids; what stands before the first sentinel belongs nowhere and is dropped, and so
        does what follows a sentinel that is not known.
      sentinels: their ids.
    """
    spans: dict[int | None, list[int]] = {}
    current: int | None = None
    for token in written:
        if token in sentinels:
            current = token
        else:
            spans.setdefault(current, []).append(token)
    merged: list[int] = []
    for token in known:
        merged += spans.get(token, []) if token in sentinels else [token]
    return merged
