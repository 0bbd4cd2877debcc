"""Writes what came out of the test questions: table, predictions, page and picture."""

import collections
import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from medjax.data import setup
from medjax.evaluation import grounding
from medjax.evaluation.baselines import Majority
from medjax.evaluation.html import write_html
from medjax.evaluation.metrics import BASIC
from medjax.evaluation.parquet import write_parquet
from medjax.evaluation.picture import write_picture
from medjax.evaluation.predictions import Prediction, scored, write_jsonl
from medjax.evaluation.table import Results, results
from medjax.files import write_whole
from medjax.thumbnails import thumbnails

FILES = ("results.json", "results.md", "predictions.jsonl", "predictions.parquet",
         "predictions.html", "predictions.png")  # fmt: skip


class Images(Mapping[str, np.ndarray]):
    """A source's images by key, each read when it is asked for: one at a time is in memory."""

    def __init__(self, source):
        self._source = source
        self._places: dict[str, int] = {}
        for index in range(len(source)):
            example = source[index]
            self._places.setdefault(example.image_key or example.id, index)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def __getitem__(self, key: str) -> np.ndarray:
        return self._source[self._places[key]].image


def majority(train: Sequence[Any], source: setup.Joined, group: str = "") -> list[Prediction]:
    """What always giving the training data's most frequent answer would score."""
    fitted = Majority.fit(part[i] for part in train for i in range(len(part)))
    return fitted.predict((source[i] for i in range(len(source))), group_key=group)


def write(
    folder: pathlib.Path,
    systems: Mapping[str, Sequence[Prediction]],
    source: setup.Joined,
    title: str,
    group: str = "",
    *,
    metrics: Sequence[str] = BASIC,
    by: Sequence[str] = (),
) -> Results:
    """Writes `FILES`; predictions.jsonl and .png are of the last system, the others of all.

    Where that was put to the checks of `grounding`, what survives them is told below the results.

    Args:
      metrics: names and groups of those that the answers are scored by.
      by: keys of the examples by which there are further tables, see `breakdown`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    systems = {name: scored(predictions, metrics) for name, predictions in systems.items()}
    table = results(systems, groups=f"{group or 'image'}s", metrics=metrics, by=by)
    if survives := grounding.shares(systems, list(systems)[-1], groups=table.groups):
        table = dataclasses.replace(table, more={grounding.TITLE: survives})
    images = Images(source)
    last = list(systems.values())[-1]
    write_whole(folder / "results.json", (json.dumps(table.to_dict(), indent=2) + "\n").encode())
    write_whole(folder / "results.md", (table.to_markdown() + "\n").encode())
    write_jsonl(folder / "predictions.jsonl", last)
    rows = collections.Counter(p.image_key for of_system in systems.values() for p in of_system)
    small = thumbnails(images, rows)
    write_parquet(folder / "predictions.parquet", systems, small)
    write_html(folder / "predictions.html", systems, small, title=title, summary=table)
    write_picture(folder / "predictions.png", last, images)
    return table
