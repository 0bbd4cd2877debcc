"""Answers and truths by id: `Prediction`s, and what did not find its other half."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from medjax.errors import UserError
from medjax.evaluation.external.answers import Answers, Said
from medjax.evaluation.external.truths import Truth
from medjax.evaluation.metrics import kind_of
from medjax.evaluation.predictions import Prediction


@dataclasses.dataclass(frozen=True)
class Joined:
    """What there is to score.

    Attributes:
      predictions: not scored yet; in the dataset's order, else the file's.
      missing: ids of questions that the file has no answer to; they are among the predictions,
        with an empty answer, unless only those answered were asked for.
      unknown: ids of the file that the dataset does not have; left out.
      without_truth: how many predictions have no true answer.
    """

    predictions: list[Prediction]
    missing: list[str]
    unknown: list[str]
    without_truth: int


def join(
    answers: Answers,
    truths: Mapping[str, Truth] | None,
    *,
    group: str = "",
    only_answered: bool = False,
) -> Joined:
    """Puts answers and truths together.

    Args:
      answers: of a file.
      truths: of a dataset, by id; None: the file has them.
      group: the key that says which examples depend on one another; the image if empty.
      only_answered: leaves out questions that the file has no row for.

    Raises:
      UserError: nothing is left, there is no true answer at all, or no example has the group's key.
    """
    found: Mapping[str, Truth | None]
    found = dict.fromkeys(answers.answers) if truths is None else truths
    missing = [id for id in found if id not in answers.answers]
    unknown = [id for id in answers.answers if id not in found]
    if len(missing) == len(found):
        raise UserError(
            f"No id of the answers ({_some(unknown)}) is one of the dataset's ({_some(missing)}): "
            "name the key that holds them with --keys id=KEY."
        )
    wanted = [id for id in found if id in answers.answers or not only_answered]
    predictions = [
        _prediction(answers.answers.get(id) or Said(id, ""), found[id], group) for id in wanted
    ]
    without_truth = sum(not p.truth.strip() for p in predictions)
    if without_truth == len(predictions):
        raise UserError(
            "There is no true answer to compare with: name its key with --keys truth=KEY, or the "
            "dataset with --data."
        )
    if group and not any(group in p.extra for p in predictions):
        keys = ", ".join(predictions[0].extra) or "none"
        raise UserError(f"--group {group}: no example has such a key; the first has {keys}.")
    return Joined(predictions, missing, unknown, without_truth)


def _prediction(said: Said, truth: Truth | None, group: str) -> Prediction:
    """What the dataset says counts before what the file says."""
    of_set: Any = truth or said
    question, true = of_set.question or said.question, of_set.truth or said.truth
    extra = {**said.extra, **of_set.extra}
    task = of_set.task or said.task or str(extra.get("task") or "") or kind_of(question, true)
    image_key = of_set.image_key or said.image_key or said.id
    return Prediction(
        id=said.id,
        image_key=image_key,
        question=question,
        generated=said.generated,
        truth=true,
        task=task,
        group=str(extra.get(group) or image_key) if group else said.group or image_key,
        extra=extra,
        **said.own,
    )


def _some(ids: list[str]) -> str:
    return ", ".join(map(repr, ids[:3])) + (", ..." if len(ids) > 3 else "")
