"""Pairs of question and answer become records, one an image and part; shared by several readers."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from medjax.data.faults import BadExample, FaultCounter
from medjax.data.medical.readers.tables import parquet_parts, parquet_rows
from medjax.data.medical.record import FileImage, Question, Record
from medjax.errors import UserError

_YES_NO = ("yes", "no")

# A record without questions, and a question of it.
Pair = tuple[Record, Question]


def content(pair: Pair) -> tuple[str, str, str]:
    """Image, question and answer, whatever the case and the spaces."""
    record, question = pair
    asked, answer = (
        " ".join(text.lower().split()) for text in (question.question, question.answer)
    )
    return record.image.key, asked, answer


def once(pairs: Iterable[Pair]) -> list[Pair]:
    """Leaves out pairs whose content their part of the dataset had before."""
    first: dict[tuple[str, ...], Pair] = {}
    for pair in pairs:
        first.setdefault((pair[0].split, *content(pair)), pair)
    return list(first.values())


def gather(pairs: Iterable[Pair]) -> Iterator[Record]:
    """Joins the questions about an image.

    Args:
      pairs: records of one id are one, and the first of them counts. A question
        whose id another had before gets "-2", "-3", ... behind it: some files number rows twice.

    Yields:
      The records in the order in which they were seen first, when all pairs have been read.
    """
    records: dict[str, tuple[Record, list[Question]]] = {}
    seen: dict[str, int] = {}
    for record, question in pairs:
        seen[question.id] = count = seen.get(question.id, 0) + 1
        if count > 1:
            question = dataclasses.replace(question, id=f"{question.id}-{count}")
        records.setdefault(record.id, (record, []))[1].append(question)
    for record, questions in records.values():
        yield dataclasses.replace(record, questions=tuple(questions))


def kind_of_answer(answer: str) -> str:
    """ "closed" if an answer is yes or no, else "open": for datasets that don't say."""
    return "closed" if answer.strip(" .").lower() in _YES_NO else "open"


def stated_kind(value: str) -> str:
    """ "closed" or "open", from what a file says, in capitals and with stray spaces.

    Raises:
      BadExample: it says something else.
    """
    kind = value.strip().lower()
    if kind not in ("closed", "open"):
        raise BadExample(
            "unknown answer_type", f'"answer_type" is {value!r}: it must be "OPEN" or "CLOSED".'
        )
    return kind


def needed(text: str | None, what: str) -> str:
    """A text without spaces around it.

    Args:
      text: as a file has it.
      what: it is: "question", "answer" or "caption".

    Raises:
      BadExample: it is empty.
    """
    if text is None or not (stripped := str(text).strip()):
        raise BadExample(f"empty {what}", f"the {what} is empty.")
    return stripped


class ImageFolder:
    """The images in a folder, none of which is read."""

    def __init__(self, folder: Path, names: Sequence[str]):
        """The first folder that exists.

        Args:
          folder: of the dataset.
          names: that the folder of images may have in it.

        Raises:
          UserError: there is none of them.
        """
        self._found: dict[str, FileImage] = {}
        for name in names:
            self.path = folder / name
            if self.path.is_dir():
                return
        raise UserError(f"{folder} has no folder of images: it may be called {' or '.join(names)}.")

    def image(self, name: str) -> FileImage:
        """The image of a file's name, or of a path from the folder on.

        Raises:
          BadExample: there is no such file.
        """
        if name not in self._found:
            path = self.path / name
            if not name or not path.is_file():
                raise BadExample("missing image", f"the image {path} does not exist.")
            self._found[name] = FileImage.at(path)
        return self._found[name]


def from_parquet(folder: Path, counter: FaultCounter) -> Iterator[Record]:
    """Records of parquet files with the columns image, question and answer, a set of files a part.

    Nothing in them names an image; rows belong to one if its encoded bytes are the same. The record
    is called by part and digest, and an image that is in two parts has the same digest in both.
    """
    for part, paths in parquet_parts(folder).items():
        yield from gather(_parquet_pairs(part, paths, counter))


def _parquet_pairs(part: str, paths: Sequence[Path], counter: FaultCounter) -> Iterator[Pair]:
    for file, path in enumerate(paths):
        for row in parquet_rows(path, ("question", "answer"), counter, digests=True):
            try:
                asked = needed(row.values["question"], "question")
                answer = needed(row.values["answer"], "answer")
            except BadExample as fault:
                counter.add(BadExample(fault.reason, f"{row.where}: {fault}"))
                continue
            image = row.digest[:16]
            kind = kind_of_answer(answer)
            name = f"{part}/{file}-{row.number}"
            yield (
                Record(f"{part}/{image}", row.image, image, part, where=row.where),
                Question(name, kind, asked, answer, facts={"answer_type": kind}),
            )
