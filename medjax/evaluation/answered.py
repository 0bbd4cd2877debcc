"""Training followed by what it is for: validation questions answered at each evaluation."""

from collections.abc import Iterable

import numpy as np

from medjax.data.example import Example
from medjax.evaluation.asking import Examples
from medjax.evaluation.predictions import Prediction, from_example

SCORE = "score"  # the mean of the scores that stand for each answer
_SEED = 0


class Chosen:
    """Some examples of a source, in its order."""

    def __init__(self, source: Examples, places: Iterable[int]):
        self._source, self._places = source, tuple(places)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Example:
        return self._source[self._places[index]]


def chosen(source: Examples, count: int) -> Chosen | None:
    """So many examples, or all that there are; None for a count of 0.

    One is drawn from each of `count` equal stretches of the source, always the same: at even steps
    they might all be of one task, where each image has the same questions in the same order.
    """
    if not count or not len(source):
        return None
    count = min(count, len(source))
    ends = np.arange(count + 1) * len(source) // count
    return Chosen(source, np.random.default_rng(_SEED).integers(ends[:-1], ends[1:]).tolist())


def figures(predictions: Iterable[Prediction]) -> dict[str, float]:
    """The mean of each metric over the answers that have it, and `SCORE`.

    Exact match is over questions alone, as in the table of results: captions have a score of their
    own.
    """
    found: dict[str, list[float]] = {}
    for prediction in predictions:
        for metric, value in prediction.scores.items():
            if metric != "exact_match" or prediction.kind == "question":
                found.setdefault(metric, []).append(value)
        if prediction.main_score is not None:
            found.setdefault(SCORE, []).append(prediction.main_score)
    return {name: float(np.mean(values)) for name, values in found.items()}


def names(source: Examples | None) -> tuple[str, ...]:
    """The names that `figures` of answers to a source's questions will have."""
    examples = () if source is None else (source[index] for index in range(len(source)))
    return tuple(figures(from_example(example, "") for example in examples))
