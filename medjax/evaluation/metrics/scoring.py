"""Answers, scored by the metrics that were chosen."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from medjax.evaluation.metrics.catalogue import BASIC, Metric, chosen
from medjax.evaluation.metrics.kinds import MASK_DICE, Answer, answer_type, kind_of

_PROGRESS_FROM = 5000  # answers
_MOST_CLASSES = 20  # of masks, that have scores of their own


@dataclasses.dataclass(frozen=True)
class _Single:
    """The `Answer` of `score`'s arguments."""

    question: str
    generated: str
    truth: str
    task: str
    extra: Mapping[str, Any]
    confidence: None = None


def applicable(answer: Answer, metrics: Sequence[Metric]) -> list[Metric]:
    """Those of some metrics that score this answer."""
    kind = kind_of(answer.question, answer.truth, answer.task, answer.extra)
    type_ = answer_type(answer.truth, answer.extra)
    has_truth = bool(answer.truth.strip())
    return [metric for metric in metrics if metric.scores(kind, type_, has_truth)]


def score(
    question: str,
    generated: str,
    truth: str,
    task: str = "",
    *,
    extra: Mapping[str, Any] = {},
    names: Iterable[str] = BASIC,
) -> dict[str, float]:
    """Scores one answer.

    Args:
      question: as it was put, with its prefix.
      generated: the system's answer.
      truth: the true one.
      task: what the example is counted under.
      extra: what else the dataset knows: answer_type, choices, answers.
      names: of metrics and groups; those of whole sets (BLEU, CIDEr, mAP) are left out.

    Returns:
      The scores that the example has, by name: finite, from 0 to the metric's `top` or, of
      `length`, more. Where there is no true answer, those that need none.
    """
    answer = _Single(question, generated, truth, task, extra)
    fitting = applicable(answer, chosen(names))
    return {metric.name: metric.each(answer) for metric in fitting if metric.each}


def score_all(answers: Sequence[Answer], names: Iterable[str] = BASIC) -> list[dict[str, float]]:
    """Scores a set of answers.

    Returns:
      The scores of each answer, as `score` gives them, those that depend on the set (CIDEr-D), and
      beside `dice` that of each class as "dice/<its name>", unless the set has very many classes.
      Metrics of the set as a whole are not among them: `table.results` computes those.
    """
    metrics = chosen(names)
    together: dict[str, list[int]] = {m.name: [] for m in metrics if m.together}
    scores: list[dict[str, float]] = []
    bar = tqdm(answers, desc="scores", unit="answer", disable=len(answers) < _PROGRESS_FROM)
    for place, answer in enumerate(bar):
        fitting = applicable(answer, metrics)
        for metric in fitting:
            if metric.together:
                together[metric.name].append(place)
        scores.append({m.name: m.each(answer) for m in fitting if m.each})
    for metric in metrics:
        if metric.together and (places := together[metric.name]):
            values = metric.together([answers[place] for place in places])
            for place, value in zip(places, values, strict=True):
                scores[place][metric.name] = float(value)
    if any(metric.name == "dice" for metric in metrics):
        _add_classes(answers, scores)
    return scores


def _add_classes(answers: Sequence[Answer], scores: Sequence[dict[str, float]]) -> None:
    """The Dice of each class of masks, where they are few."""
    start = f"{MASK_DICE}/"
    of_classes = [
        {
            f"dice/{key.removeprefix(start)}": float(a.extra[key])
            for key in a.extra
            if key.startswith(start)
        }
        for a in answers
    ]
    if len({name for found in of_classes for name in found}) <= _MOST_CLASSES:
        for found, more in zip(scores, of_classes, strict=True):
            found |= more
