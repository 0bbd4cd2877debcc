"""Figures from papers, as rows beside what was measured.

A file of them is a JSON list of objects: {"system": ..., "source": ..., "licence": ...,
"parameters": 7e9, "task": ..., and every other key a metric}. A metric's value is a number, or
{"value": ..., "low": ..., "high": ...} where the source gives an interval. Without a task a row
belongs to all questions.
"""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from medjax.errors import UserError
from medjax.evaluation.comparison.systems import System, check_about
from medjax.evaluation.table import Estimate

_ABOUT = ("system", "source", "licence", "parameters", "task")


@dataclasses.dataclass(frozen=True)
class Published:
    """What a source says of a system.

    Attributes:
      name: of the system.
      source: paper or place where the figures are.
      licence, parameters: as in `systems.System`.
      task: what the figures are of; empty: of all questions.
      values: by metric, as the file spells it; the ends of an interval that is not given are nan.
    """

    name: str
    source: str
    licence: str
    parameters: float | None
    task: str
    values: Mapping[str, Estimate]


def read_published(path: str | os.PathLike[str]) -> list[Published]:
    """Reads a file of published figures.

    Raises:
      UserError: it cannot be read, or an entry is not as it should be; it names file and entry.
    """
    try:
        entries = json.loads(pathlib.Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot read these figures ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    if not isinstance(entries, list):
        raise UserError(f"{path}: not a list of systems, each an object with system and source")
    return [_entry(entry, f"{path}, entry {n}") for n, entry in enumerate(entries, 1)]


def of_systems(systems: Iterable[System]) -> list[Published]:
    """What the measured systems' own sources say of them (system.json).

    Raises:
      UserError: a value is no number; it names system and metric.
    """
    return [
        Published(
            system.name,
            system.source or "the system's authors",
            system.licence,
            system.parameters,
            "",
            {
                key: _estimate(value, f"{system.name}, published {key}")
                for key, value in system.published.items()
                if value is not None
            },
        )
        for system in systems
        if system.published
    ]


def _entry(entry: Any, where: str) -> Published:
    about = check_about(entry, where)
    texts = {key: entry.get(key, "") for key in ("system", "source", "task")}
    for key, text in texts.items():
        if not isinstance(text, str):
            raise UserError(f"{where}: {key} must be a text, not {text!r}")
    for key in ("system", "source"):
        if not texts[key].strip():
            raise UserError(f"{where}: {key} is missing; a published figure needs both")
    values = {
        key: _estimate(value, f"{where}, {key}")
        for key, value in entry.items()
        if key not in _ABOUT and value is not None
    }
    if not values:
        raise UserError(f'{where}: no metric; write its name and value, such as "open_recall": 0.6')
    return Published(
        texts["system"], texts["source"], about.get("licence", ""), about.get("parameters"),
        texts["task"], values,
    )  # fmt: skip


def _estimate(value: Any, where: str) -> Estimate:
    parts = value if isinstance(value, dict) else {"value": value}
    if "value" not in parts or parts.keys() - {"value", "low", "high"}:
        raise UserError(f"{where}: an object must have value, and may have low and high")
    numbers = []
    for key in ("value", "low", "high"):
        number = parts.get(key)
        if number is None and key != "value":
            number = math.nan
        elif isinstance(number, bool) or not isinstance(number, int | float):
            raise UserError(f"{where}: {key} must be a number, not {number!r}")
        elif not math.isfinite(number):
            raise UserError(f"{where}: {key} must be finite")
        numbers.append(float(number))
    if math.isnan(numbers[1]) != math.isnan(numbers[2]):
        raise UserError(f"{where}: an interval has both low and high")
    return Estimate(*numbers)
