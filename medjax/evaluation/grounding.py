"""Whether a model's answers come from the image: asked again without one, and with another's.

A model that has learned what is usually answered loses little when the image is taken away. Each
question is put once more with a blank image, and once more with another patient's; the share of the
score that survives says how much of it never came from the image. Source: the counterfactuals of
arXiv:2603.03437 (real, blank and shuffled images).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from medjax.cli import say
from medjax.data.batching import ExampleTransform
from medjax.data.example import Example
from medjax.evaluation import bootstrap
from medjax.evaluation.asking import Asker, Examples
from medjax.evaluation.metrics import MAIN_METRIC
from medjax.evaluation.predictions import Prediction, by_id
from medjax.evaluation.table import OVERALL, Estimate, Results, Row

TITLE = "grounding"
BLANK, SHUFFLED = CHECKS = ("blank image", "shuffled images")
_ABOVE = "above majority"
_SEED = 0


def system(name: str, check: str) -> str:
    """What a model's answers under a check are called among the systems."""
    return f"{name}, {check}"


def answers(
    ask: Asker, model: Any, source: Examples, config: ConfigDict, name: str
) -> dict[str, list[Prediction]]:
    """A model's answers to a source's questions under each check, by `system`.

    They are scored as ever, against the true answer to the true image, which is also the one that
    they name. Blank is mid grey, 0 of the model's input in [-1, 1].

    Args:
      config: of the stage; its `evaluate.group` says whose image is another's, else the key
        "patient" does where the data have it, else each image is on its own.
    """
    side = config.image_size
    grey = np.zeros((side, side, 3), np.float32)
    blank = ExampleTransform(lambda example: grey, ask.transform.text)
    called = {check: system(name, check) for check in CHECKS}
    found = {called[BLANK]: ask(model, source, called[BLANK], transform=blank)}
    places = derangement(source, config.evaluate.group)
    if places is None:
        say(f"{called[SHUFFLED]}: left out, since all questions are about the same image")
        return found
    shuffled = Shuffled(source, places)
    return found | {called[SHUFFLED]: ask(model, source, called[SHUFFLED], asked=shuffled)}


class Shuffled:
    """A source's questions, each with the image of another example."""

    def __init__(self, source: Examples, places: Mapping[str, int]):
        """places: by image key, where in the source an example has the image to show instead."""
        self._source, self._places = source, places

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        example = self._source[index]
        other = self._source[self._places[_key(example)]]
        # The key goes with the image: caches go by it.
        return dataclasses.replace(example, pixels=lambda: other.image, image_key=_key(other))


def derangement(source: Examples, group: str = "", seed: int = _SEED) -> dict[str, int] | None:
    """For each image another one: a permutation without fixed points, drawn with a seed.

    The other image is of another group, for as many images as that can be: all, unless one group
    has more than half of them.

    Returns:
      By image key, where in the source an example has the image to show instead; None if there is
      one image alone.
    """
    places: dict[str, int] = {}
    groups: dict[str, list[str]] = {}
    for index in range(len(source)):
        example = source[index]
        key = _key(example)
        if key not in places:
            places[key] = index
            unit = example.extra.get(group or "patient") or f"image {key}"
            groups.setdefault(str(unit), []).append(key)
    if len(places) < 2:
        return None
    random = np.random.default_rng(seed)
    blocks = [groups[unit] for unit in random.permutation(sorted(groups))]
    keys = [key for block in blocks for key in random.permutation(sorted(block)).tolist()]
    # Groups lie side by side in a ring, turned by the largest: whoever is that far away is in
    # another one, until a group has more than half of the ring.
    turn = max(map(len, blocks))
    turn = turn if turn < len(keys) else 1
    return {key: places[keys[(i + turn) % len(keys)]] for i, key in enumerate(keys)}


def _key(example: Example) -> str:
    return example.image_key or example.id


@dataclasses.dataclass(frozen=True)
class Shares(Results):
    """The table of what survives: its "systems" are the score, and the shares of it.

    Attributes:
      model: whose answers they are.
    """

    model: str = ""

    @property
    def note(self) -> str:
        """What is divided by what, and how to read it."""
        text = (
            f"{self.model}: its score, and the share of it that survives with a blank image or "
            "another's, which is the score with that image / the score with the true image: 1.00 "
            "means that the image was not used. A task whose score is 0 has no share. Pages show "
            "the true image beside all answers."
        )
        if any(_ABOVE in column for column in self.systems):
            text += (
                f" {_ABOVE.capitalize()}: (score with that image − score of the majority answer) /"
                " (score with the true image − score of the majority answer), for tasks in which "
                "the model is above the majority answer."
            )
        return (
            f"{text} {100 * self.level:g}% bootstrap intervals over {self.groups}, both scores of "
            "the same draws."
        )

    def to_dict(self) -> dict[str, Any]:
        """As other tables, with the model and the note."""
        return super().to_dict() | {"model": self.model, "note": self.note}


def shares(
    systems: Mapping[str, Sequence[Prediction]],
    name: str,
    *,
    majority: str = "majority answer",
    groups: str = "images",
    level: float = 0.95,
) -> Shares | None:
    """What of a model's main scores survives each check, by task and over all questions.

    Args:
      systems: answers to the same examples by system, those under checks among them.
      name: of the model.
      majority: the system that gives the most frequent answers; may be absent.
      groups: what a prediction's group is, in the plural.

    Returns:
      The table; None if the model was put to no check.
    """
    checks = [check for check in CHECKS if system(name, check) in systems]
    if not checks:
        return None
    used = [name, *(system(name, check) for check in checks)]
    floor = by_id(systems[majority]) if majority in systems else {}
    scores = {one: by_id(systems[one]) for one in used}
    shares = {check: f"{check} / score" for check in checks}
    columns = ("score", *shares.values())
    columns += tuple(f"{share}, {_ABOVE}" for share in shares.values()) if floor else ()

    def row(task: str, chosen: Sequence[Prediction]) -> Row:
        units = [prediction.group for prediction in chosen]

        def values(index: Mapping[str, Prediction]) -> np.ndarray:
            return np.array([index[prediction.id].main_score for prediction in chosen], np.float64)

        true = values(scores[name])
        low, high = bootstrap.interval(true, units, level)
        found = {"score": Estimate(float(true.mean()), low, high)}
        for check in checks:
            under = values(scores[system(name, check)])
            found[shares[check]] = Estimate(*bootstrap.ratio(under, true, units, level))
            if floor:
                least = values(floor)
                above = bootstrap.ratio(under - least, true - least, units, level)
                found[f"{shares[check]}, {_ABOVE}"] = Estimate(*above)
        there = {key: found[key] for key in columns if not np.isnan(found[key].value)}
        metric = MAIN_METRIC[chosen[0].kind]
        return Row(task, metric, len(chosen), len(set(units)), there, {})

    tasks: dict[tuple[str, str], list[Prediction]] = {}
    for prediction in systems[name]:
        if prediction.main_score is not None:
            tasks.setdefault((prediction.task, prediction.kind), []).append(prediction)
    rows = tuple(row(task, tasks[task, kind]) for task, kind in sorted(tasks, key=_place))
    questions = [p for (_, kind), of in tasks.items() if kind == "question" for p in of]
    overall = row(OVERALL, questions) if questions else None
    return Shares(columns, rows, overall, level, groups, {}, model=name)


def _place(task: tuple[str, str]) -> tuple[int, str]:
    """Questions, detection, segmentation, captions, as in the table of results."""
    return [*MAIN_METRIC].index(task[1]), task[0]  # type: ignore[arg-type]
