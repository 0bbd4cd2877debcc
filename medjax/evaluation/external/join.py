"""Answers and truths by id: `Prediction`s, and what did not find its other half."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from medjax.data.example import SOURCE
from medjax.errors import UserError
from medjax.evaluation.external.answers import Answers, Said
from medjax.evaluation.external.masks import compared
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
      UserError: a mask cannot be read or compared, nothing is left, there is no true answer at all,
        or no example has the group's key.
    """
    found: Mapping[str, Truth | None]
    found = dict.fromkeys(answers.answers) if truths is None else truths
    answers = _renamed(answers, found)
    missing = [id for id in found if id not in answers.answers]
    unknown = [id for id in answers.answers if id not in found]
    if len(missing) == len(found):
        raise UserError(
            f"No id of the answers ({_some(unknown)}) is one of the dataset's ({_some(missing)}): "
            "name the key that holds them with --keys id=KEY."
        )
    wanted = [id for id in found if id in answers.answers or not only_answered]
    masks = any(f"{side}_mask" in answers.taken for side in ("generated", "truth"))
    bar = tqdm(wanted, desc="masks", unit="answer", disable=not masks)
    predictions = [
        _prediction(answers.answers.get(id) or Said(id, ""), found[id], group) for id in bar
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
    generated, extra = said.generated, {**said.extra, **of_set.extra}
    if true_mask := of_set.truth_mask or said.truth_mask:
        found, shown, true_shown = compared(said.generated_mask, true_mask)
        generated, true, extra = generated or shown, true or true_shown, extra | found
    task = (
        of_set.task
        or said.task
        or str(extra.get("task") or "")
        or kind_of(question, true, extra=extra)
    )
    image_key = of_set.image_key or said.image_key or said.id
    return Prediction(
        id=said.id,
        image_key=image_key,
        question=question,
        generated=generated,
        truth=true,
        task=task,
        group=str(extra.get(group) or image_key) if group else said.group or image_key,
        extra=extra,
        **said.own,
    )


def _renamed(answers: Answers, known: Mapping[str, Truth | None]) -> Answers:
    """Answers by the ids of the dataset, where theirs are these but for a beginning.

    medjax begins ids with a source's name where it asks several, "medpix/12"; readers begin them
    with a part of the data where numbers are not unique, "test/12", which others do not write.
    """
    if all(id in known for id in answers.answers):
        return answers
    ends: dict[str, list[str]] = {}
    for id in known:
        for place in (place for place, letter in enumerate(id) if letter == "/"):
            ends.setdefault(id[place + 1 :], []).append(id)
    meant: dict[str, list[str]] = {}  # by an id of the dataset, those of the answers
    for id, said in answers.answers.items():
        bare = id.removeprefix(f"{said.extra.get(SOURCE)}/")
        found = [bare] if bare in known else ends.get(id, [])
        if id not in known and len(found) == 1 and _may_be(said, known[found[0]]):
            meant.setdefault(found[0], []).append(id)
    names = {
        ids[0]: name for name, ids in meant.items() if len(ids) == 1 and name not in answers.answers
    }
    renamed = {names.get(id, id): said for id, said in answers.answers.items()}
    named = {id: dataclasses.replace(said, id=id) for id, said in renamed.items()}
    return dataclasses.replace(answers, answers=named)


def _may_be(said: Said, truth: Truth | None) -> bool:
    """Whether the file's true answer, if it has one, is the dataset's."""
    same = truth is None or said.truth.split() == truth.truth.split()
    return same or not said.truth


def _some(ids: list[str]) -> str:
    return ", ".join(map(repr, ids[:3])) + (", ..." if len(ids) > 3 else "")
