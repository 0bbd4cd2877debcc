"""The questions of a dataset by id, with their true answers and what is known of their images."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from medjax.data.faults import FaultCounter
from medjax.data.medical import catalogue
from medjax.data.medical.record import SHORT_FACTS, SPLITS, Question, Record
from medjax.errors import UserError
from medjax.evaluation.external.answers import read_answers


@dataclasses.dataclass(frozen=True)
class Truth:
    """A question and its true answer; the fields are those of `answers.Said`."""

    question: str
    truth: str
    task: str
    image_key: str
    extra: Mapping[str, Any]


def read_truths(data: str, part: str, tasks: Sequence[str] = ()) -> dict[str, Truth]:
    """The questions of a part of a dataset, in its order.

    Args:
      data: "name=folder", one of `catalogue.NAMES` and where its files are; or a file of questions
        with ids and true answers, as `answers.read_answers` reads it.
      part: one of `SPLITS`, or "all"; of a file it makes no difference.
      tasks: keeps only these; all if empty.

    Raises:
      UserError: there is no such dataset, part, task or file, or a row of it is bad.
    """
    name, equals, folder = data.partition("=")
    if equals and name in catalogue.NAMES:
        found = dict(_of_dataset(name, Path(folder).expanduser(), part))
    elif Path(data).expanduser().is_file():
        found = _of_file(Path(data).expanduser())
    else:
        raise UserError(
            f"--data {data}: write a file of questions with their true answers, or NAME=FOLDER "
            f"with a name among {', '.join(catalogue.NAMES)}."
        )
    kinds = dict.fromkeys(truth.task for truth in found.values())
    if unknown := [task for task in tasks if task not in kinds]:
        raise UserError(
            f"--data {data} has no task {unknown[0]!r}, but {', '.join(filter(None, kinds))}."
        )
    if tasks:
        found = {id: truth for id, truth in found.items() if truth.task in tasks}
    if not found:
        raise UserError(f"--data {data} has no questions in its part {part!r}.")
    return found


def _of_dataset(name: str, folder: Path, part: str) -> Iterator[tuple[str, Truth]]:
    if part not in (*SPLITS, "all"):
        raise UserError(f"--part {part}: write one of {', '.join(SPLITS)}, all.")
    records = catalogue.dataset(name).read(folder, FaultCounter("skip"))
    for record in tqdm(records, desc=f"questions of {name}", unit="image", mininterval=1.0):
        if part == "all" or record.split == part:
            for question in record.questions:
                yield question.id, _truth(record, question)


def _truth(record: Record, question: Question) -> Truth:
    extra = {key: record.facts[key] for key in SHORT_FACTS if key in record.facts}
    extra |= dict(question.facts)
    known = {
        "patient": record.patient, "mode": question.mode, "origin": question.origin,
        "language": question.language,
    }  # fmt: skip
    extra |= {key: value for key, value in known.items() if value}
    extra["task"] = question.task
    asked = question.question or f"{question.form} {question.language}"
    return Truth(asked, question.answer, question.task, record.id, extra)


def _of_file(path: Path) -> dict[str, Truth]:
    # Its answers are the true ones, so that nothing is generated.
    answers = read_answers(path, needs="truth")
    return {
        id: Truth(said.question, said.truth, said.task, said.image_key, said.extra)
        for id, said in answers.answers.items()
    }
