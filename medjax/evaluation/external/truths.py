"""The questions of a dataset by id, with their true answers and what is known of their images."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from medjax.data.faults import FaultCounter
from medjax.data.medical import catalogue
from medjax.data.medical.conditioning import splits, unseen
from medjax.data.medical.conditioning.settings import DEFAULT
from medjax.data.medical.record import SHORT_FACTS, SPLITS, Question, Record
from medjax.errors import UserError
from medjax.evaluation.external.answers import read_answers
from medjax.evaluation.external.masks import MaskFiles


@dataclasses.dataclass(frozen=True)
class Truth:
    """A question and its true answer; the fields are those of `answers.Said`."""

    question: str
    truth: str
    task: str
    image_key: str
    extra: Mapping[str, Any]
    truth_mask: MaskFiles | None = None


def read_truths(data: str, part: str, tasks: Sequence[str] = ()) -> dict[str, Truth]:
    """The questions of a part of a dataset, in its order.

    They are those that the dataset's owners give out: without templates and tables, and before
    conditioning. The fact `seen` says whether the published training part has the diagnosis.

    Args:
      data: "name=folder", one of `catalogue.NAMES` and where its files are; or a file of questions
        with ids and true answers, as `answers.read_answers` reads it.
      part: one of `SPLITS`, or "all"; of a file it makes no difference.
      tasks: keeps only these; all if empty.

    Raises:
      UserError: there is no such dataset, part, task or file, a row of it is bad, or the dataset
        has no published parts and `part` is not "all".
    """
    name, equals, folder = data.partition("=")
    if equals and name in catalogue.NAMES:
        found = dict(_of_dataset(name, Path(folder).expanduser(), part))
    elif Path(data).expanduser().is_file():
        found = _of_file(Path(data).expanduser())
    else:
        raise UserError(
            f"--data {data}: write the path of a file of questions with their true answers (such "
            "as a run's predictions.jsonl, without NAME=), or NAME=FOLDER "
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
    read = catalogue.dataset(name).read(folder, FaultCounter("skip"))
    records = list(tqdm(read, desc=f"questions of {name}", unit="image", mininterval=1.0))
    if any(record.split for record in records):
        # As they are when the dataset is built: an image without a part is where its patient is.
        records, _ = unseen.step(splits.step(records, DEFAULT)[0], DEFAULT)
    elif part != "all":
        raise UserError(f"--data {name}={folder} has no published parts: write --part all.")
    for record in records:
        if part == "all" or record.split == part:
            for question in record.questions:
                yield question.id, _truth(record, question)


def _truth(record: Record, question: Question) -> Truth:
    """Its `extra` has the keys that `medical.source.MedicalSource` gives."""
    extra = {
        "task": question.task, "patient": record.patient or record.id, "image_id": record.id,
        "language": question.language, "mode": question.mode, "origin": question.origin,
    }  # fmt: skip
    extra |= {key: record.facts[key] for key in SHORT_FACTS if key in record.facts}
    extra |= question.facts
    asked = question.question or f"{question.form} {question.language}"
    return Truth(asked, question.answer, question.task, record.id, extra)


def _of_file(path: Path) -> dict[str, Truth]:
    # Its answers are the true ones, so that nothing is generated.
    answers = read_answers(path, needs="truth")
    return {
        id: Truth(said.question, said.truth, said.task, said.image_key, said.extra, said.truth_mask)
        for id, said in answers.answers.items()
    }
