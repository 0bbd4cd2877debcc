"""The rows of a file of answers, whatever format it has: objects by key."""

import csv
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medjax.errors import UserError

FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
Row = dict[str, Any]


def read_rows(path: Path) -> list[tuple[str, Row]]:
    """Each row with where it stands, for messages.

    Args:
      path: JSON lines, a JSON list of objects, or a JSON object {id: answer or object}; CSV or
        tab-separated values with a header; or parquet. The file's ending says which.

    Raises:
      UserError: there is no such file, it has another ending, or it is damaged; it names the line.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}: give the path of a file of answers.")
    ending = path.suffix.lower()
    if ending not in FORMATS:
        raise UserError(
            f"{path}: answers are read from {', '.join(FORMATS)}, by the file's ending."
        )
    if ending == ".parquet":
        return list(_parquet(path))
    try:
        # Some programs put a byte-order mark before the first line.
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error}): save it as UTF-8.") from error
    if ending == ".json":
        return list(_json(path, text))
    if ending in (".csv", ".tsv"):
        return list(_csv(path, text, "," if ending == ".csv" else "\t"))
    return list(_json_lines(path, text))


def _json_lines(path: Path, text: str) -> Iterator[tuple[str, Row]]:
    # Not `splitlines`, which also ends lines at characters that JSON allows in a text.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path}:{number}"
            yield where, _object(_loads(line, where), where)


def _json(path: Path, text: str) -> Iterator[tuple[str, Row]]:
    data = _loads(text, str(path))
    if isinstance(data, dict):
        # Some files say more beside the one list of answers.
        lists = [value for value in data.values() if _is_rows(value)]
        if len(lists) == 1:
            data = lists[0]
        else:
            data = [
                {"id": key} | (value if isinstance(value, dict) else {"generated": value})
                for key, value in data.items()
            ]
    if not isinstance(data, list):
        raise UserError(f"{path} holds neither a list of answers nor an object of them by id.")
    for number, value in enumerate(data, start=1):
        where = f"{path}, entry {number}"
        yield where, _object(value, where)


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _csv(path: Path, text: str, separator: str) -> Iterator[tuple[str, Row]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    csv.field_size_limit(1 << 30)  # else 128 KiB
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise UserError(f"{path}:1: two columns have one name: {', '.join(header)}.")
        for values in reader:
            where = f"{path}:{reader.line_num}"
            if not values:
                continue
            if len(values) != len(header):
                raise UserError(
                    f"{where}: {len(values)} values, but the header names {len(header)} columns: "
                    "put texts that hold a separator into quotes."
                )
            yield where, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: this is no CSV ({error}).") from error


def _parquet(path: Path) -> Iterator[tuple[str, Row]]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        names = [f.name for f in file.schema_arrow if not pyarrow.types.is_struct(f.type)]
        rows = file.read(names).to_pylist()  # structs are images
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} can't be read as parquet ({error}).") from error
    for number, row in enumerate(rows, start=1):
        yield f"{path}, row {number}", {key: _as_json(value) for key, value in row.items()}


def _as_json(value: Any) -> Any:
    """A value of a table as JSON would have it: what that has no form for as a text."""
    if isinstance(value, list | tuple):
        return [_as_json(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | bool | int) else str(value)


def _loads(text: str, where: str) -> Any:
    try:
        return json.loads(text, parse_constant=lambda _: None, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON ({error}).") from error


def _finite(number: str) -> float | None:
    """NaN and infinity, which JSON does not have, are nothing."""
    return value if math.isfinite(value := float(number)) else None


def _object(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise UserError(f"{where} is no JSON object: {str(value)[:60]!r}.")
    return value
