"""Tables of further questions about a dataset's images: CSV, or JSON lines.

A CSV's header names at least image_id, case_id, question, answer, mode, split:

    image_id,case_id,question,answer,mode,split
    images/MPX1009_synpic46283.png,MPX1009,Which organ is enlarged?,The prostate.,alignment,Valid

`image_id` is an image's id, or a path whose file name is it; folders do not matter. `mode` is
pre_training or alignment, `split` Train, Valid or Test. Lines of JSON have the same keys, and may
leave out case_id, mode and split. Further columns: `task` (else "table"), `language` (else "en"),
`model` or `source` (who made the question, else "table"). All that is not part of a `Question`
otherwise is kept in its facts.
"""

import collections
import csv
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from medjax.data.faults import BadExample, FaultCounter
from medjax.data.json_lines_file import JsonLinesFile, text_of
from medjax.data.medical.record import Question, Record
from medjax.errors import UserError

MODES = ("pre_training", "alignment")
# What tables call the parts, in small letters, and what records do.
SPLITS = {"train": "train", "valid": "validation", "validation": "validation", "test": "test"}

_COLUMNS = ("image_id", "case_id", "question", "answer", "mode", "split")
_NEEDED = ("image_id", "question", "answer")
_OPTIONAL = ("task", "language")
_CSV, _JSON_LINES = ".csv", ".jsonl"
_ORIGINS = ("model", "source")  # the first that is not empty


def add(records: Sequence[Record], path: str | Path, counter: FaultCounter) -> list[Record]:
    """Adds a table's questions to the images that they are about, after those that they have.

    Args:
      records: of a whole dataset, in its order.
      path: of the table, a .csv or .jsonl.
      counter: is told of rows that can't be used, each by file and line: of an image that is not
        among the records, of another case than the image's, of a mode or split that there is not,
        without question or answer, or whose split is not the record's ("split conflict").

    Returns:
      The records in their order. Where a patient's records have no split, they get that of the
      first row about one of them.

    Raises:
      UserError: the file is missing, is of neither kind, or its header lacks a column.
    """
    path = Path(path).expanduser()
    by_id = {record.id: record for record in records}
    splits = {_patient(record): record.split for record in records if record.split}
    added: dict[str, list[Question]] = collections.defaultdict(list)
    for line, row in _rows(path, counter):
        try:
            record = _record(row, by_id)
            split, patient = row.get("split", ""), _patient(record)
            known = record.split or splits.get(patient, "")
            if split and split != known and known:
                whose = "" if record.split else f" (like all of {patient})"
                raise BadExample(
                    "split conflict",
                    f'"split" is {split}, but the image {record.id}{whose} is in {known}.',
                )
            question = _question(row, record, len(added[record.id]))
        except BadExample as fault:
            counter.add(BadExample(fault.reason, f"{path}:{line}: {fault}"))
            continue
        if split:
            splits.setdefault(patient, split)
        added[record.id].append(question)
    return [
        dataclasses.replace(
            record,
            split=record.split or splits.get(_patient(record), ""),
            questions=record.questions + tuple(added.get(record.id, ())),
        )
        for record in records
    ]


def _patient(record: Record) -> str:
    return record.patient or f"image {record.id}"


def _rows(path: Path, counter: FaultCounter) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows with their lines, their values checked as far as they stand alone."""
    if path.suffix.lower() == _CSV:
        yield from _csv_rows(path, counter)
    elif path.suffix.lower() == _JSON_LINES:
        for place, row in JsonLinesFile(path, _json_row).rows(counter):
            yield place.number, row.values
    else:
        raise UserError(f"{path} is no table of questions: give a {_CSV} or {_JSON_LINES} file.")


def _csv_rows(path: Path, counter: FaultCounter) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            lacking = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
            if lacking:
                raise UserError(
                    f"{path}: the header lacks {', '.join(lacking)}; "
                    f"it has {', '.join(reader.fieldnames or ()) or 'nothing'}."
                )
            line = reader.line_num + 1
            for row in reader:
                try:
                    # Too many values come as a list under None, too few as None.
                    if None in row or None in row.values():
                        raise BadExample(
                            "wrong number of values",
                            "the row has not as many values as the header.",
                        )
                    yield line, _checked(row, needed=_COLUMNS)
                except BadExample as fault:
                    counter.add(BadExample(fault.reason, f"{path}:{line}: {fault}"))
                line = reader.line_num + 1
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}: give the path of a table.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error}): save it as UTF-8.") from error
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: the line is not CSV ({error}).") from error


class _JsonRow(NamedTuple):
    id: str
    values: dict[str, str]


def _json_row(row: dict[str, Any], name: str) -> _JsonRow:
    for key in _NEEDED:
        text_of(row, key)
    for key in (*_COLUMNS, *_OPTIONAL, *_ORIGINS):
        if row.get(key) is not None:
            text_of(row, key)
    values = {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in row.items()
        if value is not None
    }
    return _JsonRow(name, _checked(values))


def _checked(row: Mapping[str, str], needed: Sequence[str] = _NEEDED) -> dict[str, str]:
    """The row without empty values and spaces around them, its split by the records' name."""
    row = {key: stripped for key, value in row.items() if (stripped := value.strip())}
    for key in needed:
        if key not in row:
            raise BadExample(f"empty {key}", f'"{key}" is empty.')
    if (mode := row.get("mode", MODES[0])) not in MODES:
        raise BadExample("unknown mode", f'"mode" is {mode!r}, none of {", ".join(MODES)}.')
    if "split" in row:
        if (split := row["split"].lower()) not in SPLITS:
            raise BadExample(
                "unknown split", f'"split" is {row["split"]!r}, none of Train, Valid, Test.'
            )
        row["split"] = SPLITS[split]
    return row


def _record(row: Mapping[str, str], by_id: Mapping[str, Record]) -> Record:
    """The record that a row is about."""
    name = row["image_id"]
    file = PurePosixPath(name.replace("\\", "/"))  # a table may come from Windows
    record = by_id.get(name) or by_id.get(file.name) or by_id.get(file.stem)
    if record is None:
        raise BadExample("unknown image", f'"image_id" is {name!r}: the dataset has no such image.')
    if (case := row.get("case_id", record.patient)) != record.patient:
        raise BadExample(
            "case conflict",
            f'"case_id" is {case}, but the image {record.id} is of {record.patient or "no case"}.',
        )
    return record


def _question(row: Mapping[str, str], record: Record, added: int) -> Question:
    used = {"image_id", "case_id", "question", "answer", "mode", "split", *_OPTIONAL}
    # Of all tables together, so that ids are unique.
    number = (
        added + 1 + sum(question.id.split("/")[-2:-1] == ["table"] for question in record.questions)
    )
    return Question(
        id=f"{record.id}/table/{number}",
        task=row.get("task", "table"),
        question=row["question"],
        answer=row["answer"],
        language=row.get("language", "en"),
        mode=row.get("mode", ""),
        origin=next((row[key] for key in _ORIGINS if key in row), "table"),
        facts={key: value for key, value in row.items() if key not in used},
    )
