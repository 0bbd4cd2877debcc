"""A file of JSON lines: its rows by number, and what is wrong with those that can't be used."""

import collections
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from tqdm import tqdm

from medjax.data.faults import BadExample, FaultCounter
from medjax.errors import UserError

_log = logging.getLogger(__name__)

_PROGRESS_FROM = 1000  # files


class File(Hashable, Protocol):
    """What is read of a file that a row names; equal where the same is read."""

    @property
    def path(self) -> Path:
        """Of the file."""


class Row(Protocol):
    """What a line is parsed to."""

    @property
    def id(self) -> str:
        """Unique in the file."""


R = TypeVar("R", bound=Row)
F = TypeVar("F", bound=File)


class Place(NamedTuple):
    """Where a line starts: its number from 1 on, and its offset in bytes."""

    number: int
    offset: int


class JsonLinesFile(Generic[R]):
    """The rows of a file, each parsed when it is asked for; pickles with its parser."""

    def __init__(self, path: str | Path, parse: Callable[[dict[str, Any], str], R]):
        """Opens a file.

        Args:
          path: of the file.
          parse: makes a row of an object and of the id that it has if it names none; raises
            BadExample.

        Raises:
          UserError: there is no such file.
        """
        self.path = Path(path).expanduser()
        if not self.path.is_file():
            raise UserError(f"There is no file {path}: give the path of a JSON-lines file.")
        self._parse = parse
        self._stamp = self._stat()

    def rows(self, counter: FaultCounter) -> Iterator[tuple[Place, R]]:
        """Parses every line that is not blank; bad ones go to the counter.

        Raises:
          UserError: two rows have one id (which of them is wrong can't be known).
        """
        seen: dict[str, int] = {}  # id: line
        offset = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                place = Place(number, offset)
                offset += len(line)
                if not line.strip():
                    continue
                try:
                    row = self._row(number, line)
                except BadExample as fault:
                    counter.add(fault)
                    continue
                if row.id in seen:
                    raise UserError(
                        f"{self.path}:{number}: the id {row.id!r} is that of line {seen[row.id]}: "
                        "give every row an id of its own, or none."
                    )
                seen[row.id] = number
                yield place, row

    def readable(
        self,
        rows: Sequence[tuple[Place, Iterable[File]]],
        read: Callable[[Any], Any],
        counter: FaultCounter,
    ) -> list[Place]:
        """Reads every file once; the places of the rows whose files could all be read.

        Args:
          rows: their places, and the files that they name.
          read: raises BadExample.
          counter: told of the first file that can't be read of each other row.

        Raises:
          UserError: no row is left.
        """
        faults = {}
        for file, fault in _unreadable((file for _, files in rows for file in files), read):
            faults[file] = fault
            if counter.stops:
                break
        kept = []
        for place, files in rows:
            bad = next((faults[file] for file in files if file in faults), None)
            if bad is None:
                kept.append(place)
            else:
                counter.add(self.at(place.number, bad))
        if counter.counts:
            _log.warning(
                "%s: left out %d rows (%s), kept %d.",
                self.path, counter.counts.total(), counter.summary(), len(kept),
            )  # fmt: skip
        if not kept:
            left_out = f" ({counter.summary()})" if counter.counts else ""
            raise UserError(f"{self.path} has no row to use{left_out}.")
        return kept

    def row(self, place: Sequence[int] | np.ndarray) -> tuple[R, str]:
        """Parses the line at a place; also says where that is.

        Raises:
          UserError: the file was changed after it was opened.
        """
        if self._stat() != self._stamp:
            raise UserError(f"{self.path} was changed while it was in use: start again.")
        number, offset = (int(value) for value in place)
        with self.path.open("rb") as file:
            file.seek(offset)
            return self._row(number, file.readline()), f"{self.path}:{number}"

    def at(self, number: int, fault: BadExample) -> BadExample:
        """A fault, with file and line."""
        return BadExample(fault.reason, f"{self.path}:{number}: {fault}")

    def _row(self, number: int, line: bytes) -> R:
        try:
            return self._parse(_parse_object(line), f"{self.path.name}:{number}")
        except BadExample as fault:
            raise self.at(number, fault) from fault

    def _stat(self) -> tuple[int, int]:
        stat = os.stat(self.path)
        return stat.st_size, stat.st_mtime_ns


def folder_of(path: str | Path, image_root: str | Path) -> Path:
    """The folder that a file's paths start from: `image_root`, or else the file's own.

    Raises:
      UserError: it is no folder.
    """
    if not image_root:
        return Path(path).expanduser().parent
    root = Path(image_root).expanduser()
    if not root.is_dir():
        raise UserError(f"image_root is {image_root}, which is no folder.")
    return root


def text_of(row: dict[str, Any], key: str) -> str:
    """The text under a key of a row.

    Raises:
      BadExample: there is none.
    """
    text = value_of(row, key)
    if not isinstance(text, str):
        raise BadExample("wrong type", f'"{key}" is {text!r:.80}: write a text.')
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadExample("invalid text", f'"{key}" has half a character ({error}).') from error
    return text


def value_of(row: dict[str, Any], key: str) -> Any:
    """What stands under a key of a row.

    Raises:
      BadExample: the row has no such key.
    """
    if key not in row:
        raise BadExample(
            "missing key", f'the key "{key}" is missing; the row has {", ".join(row) or "no keys"}.'
        )
    return row[key]


def id_of(row: dict[str, Any], otherwise: str) -> str:
    """The row's own id, or else another.

    Raises:
      BadExample: it is neither a text nor a number.
    """
    name = row.get("id", otherwise)
    if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
        raise BadExample("wrong type", f'"id" is {name!r}: write a text or a number.')
    return str(name)


def read_again(where: str, read: Callable[[F], Any], file: F) -> Any:
    """Reads a file that could be read before.

    Raises:
      UserError: it was changed since.
    """
    try:
        return read(file)
    except BadExample as fault:
        raise UserError(f"{where}: {fault} It could be read when the file was opened.") from fault


def _unreadable(
    files: Iterable[File], read: Callable[[File], Any]
) -> Iterator[tuple[File, BadExample]]:
    """Yields each file that can't be read, with what is wrong with it."""
    # All parts of a volume are read while it is in memory.
    by_path: dict[Path, dict[File, None]] = collections.defaultdict(dict)
    for file in files:
        by_path[file.path][file] = None

    def check(parts: Iterable[File]) -> list[tuple[File, BadExample]]:
        faults = []
        for part in parts:
            try:
                read(part)
            except BadExample as fault:
                faults.append((part, fault))
        return faults

    # Decoders spend their time outside of Python's lock.
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
    try:
        progress = tqdm(
            pool.map(check, by_path.values()),
            total=len(by_path),
            desc="Checking images",
            file=sys.stderr,
            disable=len(by_path) <= _PROGRESS_FROM,
        )
        for faults in progress:
            yield from faults
    finally:
        pool.shutdown(cancel_futures=True)


def _parse_object(line: bytes) -> dict[str, Any]:
    try:
        # Some editors put a byte-order mark before the first line.
        text = line.decode("utf-8-sig")
        row = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise BadExample("invalid JSON", f"the line is not UTF-8 ({error}).") from error
    except (ValueError, RecursionError) as error:
        raise BadExample("invalid JSON", f"the line is not JSON ({error}).") from error
    if not isinstance(row, dict):
        raise BadExample("invalid JSON", f"the line is not a JSON object: {str(row)[:80]!r}.")
    return row


def _finite(number: str) -> float:
    """What Python's json would take for a number though JSON, and predictions, have no such."""
    if not math.isfinite(value := float(number)):
        raise ValueError(f"{number} is no number; write null where there is none")
    return value
