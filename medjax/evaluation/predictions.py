"""What a system answered: one `Prediction` an example, and the file that holds them."""

import collections
import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar

from medjax.data.example import Example
from medjax.errors import UserError
from medjax.evaluation import metrics
from medjax.files import write_whole

Verdict = Literal["correct", "wrong", "unscored"]
# The score that says whether an answer is right, and from which value on.
_RIGHT = {
    "detection": ("iou", metrics.FOUND_IOU),
    "segmentation": ("dice", metrics.FOUND_DICE),
}


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One system's answer to one example.

    Attributes:
      id: the example's.
      image_key: names the image, as in `Example`.
      question: the example's prefix.
      generated: the system's answer.
      truth: the example's suffix; empty where the true answer is not known.
      task: what the example is counted under.
      group: the unit of independence for intervals (a slab, a patient).
      log_prob: natural log-probability of the whole answer with its end token; None if the system
        gives none.
      log_prob_per_token: `log_prob` over the number of those tokens.
      truncated: whether the question was too long, so that the system did not read its end.
      scores: by the metric's name, finite; from 0 to the metric's `top`, which is 1 but for `cider`
        and `length` (see `metrics.METRICS`). Without a true answer those that need none, if any.
      extra: what else the dataset knew of the example.
    """

    id: str
    image_key: str
    question: str
    generated: str
    truth: str
    task: str
    group: str
    log_prob: float | None = None
    log_prob_per_token: float | None = None
    truncated: bool = False
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def kind(self) -> metrics.Kind:
        return metrics.kind_of(self.question, self.truth, self.task, self.extra)

    @property
    def main_score(self) -> float | None:
        """The score that stands for the answer (`metrics.MAIN_METRIC`); None if unscored."""
        return self.scores.get(metrics.MAIN_METRIC[self.kind])

    @property
    def verdict(self) -> Verdict:
        """Right or wrong: boxes are right from an IoU of 0.5, masks from a mean Dice of 2/3 (which
        is an IoU of 0.5), words when they match exactly."""
        metric, least = _RIGHT.get(self.kind, ("exact_match", 1.0))
        value = self.scores.get(metric)
        if value is None:
            return "unscored"
        return "correct" if value >= least else "wrong"

    @property
    def confidence(self) -> float | None:
        """Geometric mean of the answer's token probabilities, in [0, 1]; not calibrated."""
        return None if self.log_prob_per_token is None else math.exp(self.log_prob_per_token)


def from_example(
    example: Example,
    generated: str,
    *,
    log_prob: float | None = None,
    num_tokens: int | None = None,
    truncated: bool = False,
    group_key: str = "slab",
) -> Prediction:
    """Scores an answer to an example.

    Args:
      example: what was asked; `extra["task"]` names its task, else its kind does.
      generated: the answer.
      log_prob: natural log-probability of the answer, summed over its tokens.
      num_tokens: how many tokens that sum has, the end token among them.
      truncated: whether the question's end was cut off.
      group_key: which of `example.extra` names the unit of independence; without it the image does.

    Returns:
      The prediction with its scores.
    """
    if (log_prob is None) != (num_tokens is None):
        raise ValueError("log_prob and num_tokens are given together or not at all")
    task = task_of(example)
    image_key = example.image_key or example.id
    return Prediction(
        id=example.id,
        image_key=image_key,
        question=example.prefix,
        generated=generated,
        truth=example.suffix,
        task=task,
        group=str(example.extra.get(group_key, image_key)),
        log_prob=None if log_prob is None else float(log_prob),
        log_prob_per_token=None if log_prob is None else float(log_prob) / max(num_tokens or 0, 1),
        truncated=truncated,
        scores=metrics.score(example.prefix, generated, example.suffix, task),
        extra=dict(example.extra),
    )


def scored(predictions: Sequence[Prediction], names: Iterable[str]) -> list[Prediction]:
    """One system's answers with the scores of some metrics, which may depend on all of them.

    Args:
      predictions: of the whole set.
      names: of metrics and groups, see `metrics.check`.
    """
    scores = metrics.score_all(predictions, names)
    return [
        dataclasses.replace(prediction, scores=of_one)
        for prediction, of_one in zip(predictions, scores, strict=True)
    ]


def task_of(example: Example) -> str:
    """The task an example is counted under: its `extra["task"]`, else its kind."""
    task = example.extra.get("task")
    return str(task) if task else metrics.kind_of(example.prefix, example.suffix)


def write_jsonl(path: str | os.PathLike[str], predictions: Iterable[Prediction]) -> None:
    """Writes one JSON object a line, UTF-8, with the fields of `Prediction`; whole or not at all.

    Numpy numbers and arrays in `extra` become numbers and lists.

    Raises:
      TypeError: something in `extra` has no form in JSON.
      ValueError: a number is not finite.
    """
    lines = [
        json.dumps(vars(prediction), ensure_ascii=False, allow_nan=False, default=_plain)
        for prediction in predictions
    ]
    text = "".join(line + "\n" for line in lines)
    # Half a surrogate pair has no UTF-8; as a backslash escape it is JSON and reads back the same.
    write_whole(path, text.encode("utf-8", "backslashreplace"))


def read_jsonl(path: str | os.PathLike[str]) -> list[Prediction]:
    """Reads what `write_jsonl` wrote.

    Raises:
      UserError: the file is missing, or a line is not a prediction; it names the file and line.
    """
    try:
        lines = pathlib.Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"{path}: cannot read these predictions ({error.strerror}).") from error
    predictions = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            predictions.append(_checked(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{path}, line {number}: not a prediction as medjax writes it ({error}). "
                "Run the evaluation again to write the file anew."
            ) from error
    return predictions


class _Named(Protocol):
    @property
    def id(self) -> str: ...


_T = TypeVar("_T", bound=_Named)


def by_id(predictions: Sequence[_T]) -> dict[str, _T]:
    """Indexes predictions by id.

    Raises:
      ValueError: two have the same id.
    """
    index = {prediction.id: prediction for prediction in predictions}
    if len(index) != len(predictions):
        (twice, _), *_ = collections.Counter(p.id for p in predictions).most_common(1)
        raise ValueError(f"two predictions have the id {twice!r}")
    return index


def _checked(row: Any) -> Prediction:
    if not isinstance(row, dict):
        raise TypeError("the line is not a JSON object")
    prediction = Prediction(**row)
    texts = ("id", "image_key", "question", "generated", "truth", "task", "group")
    wrong = [name for name in texts if not isinstance(getattr(prediction, name), str)]
    numbers = [prediction.log_prob, prediction.log_prob_per_token]
    if not all(number is None or _is_number(number) for number in numbers):
        wrong.append("log_prob")
    if not isinstance(prediction.truncated, bool):
        wrong.append("truncated")
    if not isinstance(prediction.scores, dict) or not all(
        _is_number(value) for value in prediction.scores.values()
    ):
        wrong.append("scores")
    if not isinstance(prediction.extra, dict):
        wrong.append("extra")
    if wrong:
        raise TypeError(f"unexpected type of {', '.join(wrong)}")
    return prediction


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _plain(value: Any) -> Any:
    """Numpy scalars and arrays as plain Python, for json."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no form in JSON")
