"""What shows that a model no longer answers: length, repeated words, nothing said.

None of it looks at the true answer. Words are `kinds.tokens`.
"""

import numpy as np

from medjax.evaluation.metrics.kinds import tokens

# The longest n-gram whose repetition is looked for, in words: a long sentence.
_LONGEST = 64


def length(generated: str) -> float:
    """Words in an answer."""
    return float(len(tokens(generated)))


def distinct(generated: str, n: int) -> float:
    """Different n-grams of an answer over all its n-grams, in (0, 1]; 1 if it has none.

    Source: Li et al. (arXiv:1510.03055), who take all answers together. That falls with the number
    of answers, whatever they are like, so here it is of each answer.
    """
    words = tokens(generated)
    grams = list(zip(*(words[i:] for i in range(n)), strict=False))
    return len(set(grams)) / len(grams) if grams else 1.0


def repetition(generated: str) -> float:
    """The share of an answer that its longest run of one repeated n-gram takes, in [0, 1].

    A run is an n-gram of any length up to 64 words, at least twice in a row, with what there is of
    the next time: "cec. cec. cec." is 1, "a cyst, a cyst, a cyst in the liver" 6 of 9, and a text
    that repeats nothing on the spot 0.
    """
    words = tokens(generated)
    size = len(words)
    if len(set(words)) == size:
        return 0.0
    index: dict[str, int] = {}
    ids = np.array([index.setdefault(word, len(index)) for word in words])
    most = min(size // 2, _LONGEST)
    # same[n - 1, i]: word i is the word n places before it.
    places = np.arange(size)
    before = places - np.arange(1, most + 1)[:, None]
    same = (ids[before] == ids) & (before >= 0)
    # How many in a row end at each place: the distance from the last place that differs.
    runs = places - np.maximum.accumulate(np.where(same, -1, places), axis=1)
    longest = runs.max(axis=1)
    periods = np.arange(1, most + 1)
    lengths = np.where(longest >= periods, longest + periods, 0)
    return float(lengths.max()) / size


def answered(generated: str) -> float:
    """1.0 if anything was said, else 0.0; white space and punctuation alone say nothing."""
    return float(any(letter.isalnum() for letter in generated))
