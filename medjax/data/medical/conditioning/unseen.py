"""Which conditions of validation and test never occur in training: those a model has not met."""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

from medjax.data.medical.conditioning.settings import Settings
from medjax.data.medical.conditioning.step import Case, Report, pick
from medjax.data.medical.conditioning.words import same
from medjax.data.medical.record import SPLITS, Record

CONDITIONS = ("diagnosis", "category")
SEEN, UNSEEN = "seen", "unseen"
_TRAIN = SPLITS[0]


def step(records: Sequence[Record], settings: Settings) -> tuple[list[Record], Report]:
    """Gives every record that has a diagnosis the fact `seen`: "seen" or "unseen".

    The report's figures: for each of `CONDITIONS` what training has, and for each other part how
    many values and images are seen, and the unseen values with their images and questions.
    """
    del settings
    trained = {condition: _trained(records, condition) for condition in CONDITIONS}
    marked, unseen = [], []
    for record in records:
        if value := same(record.facts.get("diagnosis", "")):
            mark = SEEN if value in trained["diagnosis"] else UNSEEN
            record = dataclasses.replace(record, facts={**record.facts, "seen": mark})
            if mark == UNSEEN and record.split != _TRAIN:
                unseen.append(Case(record, record.facts["diagnosis"], f"unseen, {record.split}"))
        marked.append(record)
    figures = {
        condition: {"train": {"values": len(trained[condition])}}
        | {part: _compare(marked, part, condition, trained[condition]) for part in SPLITS[1:]}
        for condition in CONDITIONS
    }
    changed = collections.Counter(r.facts["seen"] for r in marked if "seen" in r.facts)
    by_why: dict[str, list[Case]] = {}
    for case in unseen:
        by_why.setdefault(case.why, []).append(case)
    return marked, Report(
        "unseen",
        "Marks every image by whether its diagnosis occurs in training, so that results can be "
        "told apart.",
        unit="images",
        changed={f"diagnosis {mark}": changed[mark] for mark in (SEEN, UNSEEN) if changed[mark]},
        cases=pick(by_why),
        figures=figures,
    )


def _trained(records: Sequence[Record], condition: str) -> set[str]:
    """The values that training shows: of images that have questions."""
    return {
        value
        for record in records
        if record.split == _TRAIN and record.questions
        if (value := same(record.facts.get(condition, "")))
    }


def _compare(
    records: Sequence[Record], part: str, condition: str, trained: set[str]
) -> dict[str, Any]:
    spelt: dict[str, str] = {}
    images: collections.Counter[str] = collections.Counter()
    questions: collections.Counter[str] = collections.Counter()
    for record in records:
        text = record.facts.get(condition, "")
        if record.split == part and (value := same(text)):
            spelt.setdefault(value, text)
            images[value] += 1
            questions[value] += len(record.questions)
    new = [value for value in images if value not in trained]
    return {
        "values": len(images),
        "images": images.total(),
        "questions": questions.total(),
        "unseen_values": len(new),
        "unseen_images": sum(images[value] for value in new),
        "unseen_questions": sum(questions[value] for value in new),
        "unseen": [
            {condition: spelt[v], "images": images[v], "questions": questions[v]}
            for v in sorted(new, key=lambda v: (-images[v], v))
        ],
    }
