"""The systems of a comparison, from the folders that evaluations wrote.

A folder is medjax.evaluate's (or the run's that holds it) or tools/score.py's. What is not in the
predictions is said by a file system.json beside them, which may also be written by hand:
{"name": ..., "licence": ..., "parameters": 2.9e9, "source": ..., "published": {metric: value}},
every key optional; "published" holds what the source itself says, see `published`.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medjax.errors import UserError
from medjax.evaluation.baselines import MAJORITY
from medjax.evaluation.parquet import read_parquet
from medjax.evaluation.predictions import Prediction, read_jsonl

TABLE, LINES, ABOUT = "predictions.parquet", "predictions.jsonl", "system.json"


@dataclasses.dataclass(frozen=True)
class System:
    """One system with its answers.

    Attributes:
      name: unique within a comparison.
      predictions: its answers, scored.
      licence: of the model; empty if it is not said.
      parameters: their number; None if it is not said.
      source: paper or place of the model; empty if it is not said.
      groups: what a prediction's group is, in the plural ("patients").
      metrics: names of those that it was scored by.
      published: figures that the source gives, by metric, as system.json has them.
    """

    name: str
    predictions: tuple[Prediction, ...]
    licence: str = ""
    parameters: float | None = None
    source: str = ""
    groups: str = "groups"
    metrics: tuple[str, ...] = ()
    published: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def gather(folders: Iterable[str | Path]) -> list[System]:
    """The systems of several folders, each given as a path or as NAME=path.

    A baseline that several folders hold with the same answers is one system; another system of a
    name that is taken gets its folder's name behind its own.

    Raises:
      UserError: a folder holds no predictions, or a file in it is damaged.
    """
    found: dict[str, System] = {}
    for given in folders:
        folder, called = Path(given), ""
        if not folder.exists() and "=" in str(given):
            called, _, path = str(given).partition("=")
            folder = Path(path)
        for system in read_folder(folder.expanduser(), called):
            name = system.name
            if name in found and _answers(found[name]) == _answers(system):
                continue
            if name in found:
                name = f"{name} ({_name_of(folder)})"
            if name in found:
                raise UserError(
                    f"{folder}: there are two systems named {name!r}; name them apart, such as "
                    f"--systems first={folder}"
                )
            found[name] = dataclasses.replace(system, name=name)
    return list(found.values())


def read_folder(folder: Path, name: str = "") -> list[System]:
    """The systems that one folder holds; the last is the one that was evaluated.

    Args:
      folder: of an evaluation, or of a run with one.
      name: of the last system; otherwise system.json names it, or the folder does.

    Raises:
      UserError: as `gather`.
    """
    if not any((folder / file).is_file() for file in (TABLE, LINES)):
        if (folder / "evaluation").is_dir():
            return read_folder(folder / "evaluation", name)
        raise UserError(
            f"{folder}: no {TABLE} and no {LINES}; name a folder that medjax.evaluate or "
            "tools/score.py wrote, or a finished run"
        )
    about = _about(folder)
    called = name or about.pop("name", "") or _name_of(folder)
    about.pop("name", None)
    if (folder / TABLE).is_file():
        answers = read_parquet(folder / TABLE)
    else:
        answers = {called: read_jsonl(folder / LINES)}
    if not any(answers.values()):
        raise UserError(f"{folder}: nothing was answered there")
    said = _results(folder)
    *others, (_, last) = answers.items()
    systems = [
        System(other if other == MAJORITY else f"{called}: {other}", tuple(of_other), **said)
        for other, of_other in others
    ]
    return [*systems, System(called, tuple(last), **said, **about)]


def _name_of(folder: Path) -> str:
    """The folder's own name, or the run's whose evaluation it is."""
    folder = folder.absolute()
    return folder.parent.name if folder.name.startswith("evaluation") else folder.name


def _answers(system: System) -> dict[str, str]:
    return {prediction.id: prediction.generated for prediction in system.predictions}


def _about(folder: Path) -> dict[str, Any]:
    """What system.json says."""
    path = folder / ABOUT
    if not path.is_file():
        return {}
    try:
        said = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    about = check_about(said, str(path))
    if said.get("published") is not None:
        if not isinstance(said["published"], dict):
            raise UserError(f"{path}: published must be an object of metrics and their values")
        about["published"] = said["published"]
    return about


def check_about(said: Any, where: str) -> dict[str, Any]:
    """Of an object, name, licence, parameters and source, where they are said.

    Raises:
      UserError: one is not of its type; `where` begins the message.
    """
    if not isinstance(said, dict):
        raise UserError(f"{where}: not an object with name, licence, parameters and source")
    about = {}
    for key in ("name", "licence", "source"):
        if said.get(key) is not None:
            if not isinstance(said[key], str):
                raise UserError(f"{where}: {key} must be a text, not {said[key]!r}")
            about[key] = said[key]
    number = said.get("parameters")
    if number is not None:
        if isinstance(number, bool) or not isinstance(number, int | float) or not number >= 0:
            raise UserError(
                f"{where}: parameters must be their number, such as 2.9e9, not {number!r}"
            )
        about["parameters"] = float(number)
    return about


def _results(folder: Path) -> dict[str, Any]:
    """What results.json says: what a group is called, and by what was scored."""
    try:
        said = json.loads((folder / "results.json").read_bytes())
        metrics = dict.fromkeys(
            metric for task in said.get("tasks", {}).values() for metric in task
        )
        return {"groups": str(said["groups"]), "metrics": tuple(metrics)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
