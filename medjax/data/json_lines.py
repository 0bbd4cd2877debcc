"""One's own data: JSON lines in google-research/big_vision's format.

Each line of the file is a JSON object:

    {"image": "scans/0001.png", "prefix": "answer en is there a fracture?", "suffix": "no"}

`image` is a path, relative to `image_root` or else to the file's own folder; `prefix` is what is
asked, `suffix` the true answer ("" if there is none). `id` is optional and must be unique; without
it an example is called by file and line. `task`, a text, is what it is counted under. Any other
key is kept in `Example.extra`. Volumes and images of several frames need further keys, see
`image_files.image_file`. Blank lines are skipped.

Source of the format: google-research/big_vision, datasets/jsonl.py.
"""

import collections
import functools
import json
import logging
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from medjax.data.example import Example
from medjax.data.faults import BadExample, FaultCounter
from medjax.data.image_files import ImageFile, image_file, read_image
from medjax.errors import UserError

_log = logging.getLogger(__name__)

_OWN_KEYS = ("image", "prefix", "suffix", "id")
_PROGRESS_FROM = 1000  # images


class _Row(NamedTuple):
    """A line's content: everything of an Example but the pixels."""

    id: str
    image: ImageFile
    prefix: str
    suffix: str
    extra: dict[str, Any]


class JsonLinesSource:
    """The examples of a JSON-lines file, in its order.

    Everything is checked when the file is opened, every image decoded once, so that the length is
    fixed and training does not stop in the middle. What is kept in memory is where each line
    starts.

    Attributes:
      faults: how many rows were left out, by reason.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        tasks: Sequence[str] = (),
        image_root: str | Path = "",
        on_bad_example: str = "error",
    ):
        """Opens and checks a file.

        Args:
          path: of the file.
          tasks: keeps only rows whose key "task" is among these; all rows if empty.
          image_root: the folder that image paths start from; the file's own if empty.
          on_bad_example: "error" or "skip".

        Raises:
          UserError: the file or a folder is missing, no row is left, a task is unknown, two rows
            have one id (whatever `on_bad_example` says: which of them is wrong can't be known), or
            a row is bad and `on_bad_example` is "error".
        """
        counter = FaultCounter(on_bad_example)
        self._path = Path(path).expanduser()
        self._root = Path(image_root).expanduser() if image_root else self._path.parent
        if not self._path.is_file():
            raise UserError(f"There is no file {path}: give the path of a JSON-lines file.")
        if not self._root.is_dir():
            raise UserError(f"image_root is {image_root}, which is no folder.")
        self._stamp = self._stat()
        lines, images = self._index(set(tasks), counter)
        kept = self._without_bad_images(lines, images, counter)
        self._lines = np.array(kept, np.int64).reshape(-1, 2)  # number, offset in bytes
        self.faults: Mapping[str, int] = counter.counts
        if counter.counts:
            _log.warning(
                "%s: left out %d rows (%s), kept %d.",
                self._path, counter.counts.total(), counter.summary(), len(self),
            )  # fmt: skip
        if not kept:
            left_out = f" ({counter.summary()})" if counter.counts else ""
            raise UserError(f"{self._path} has no row to use{left_out}.")

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> Example:
        """Reads an example, its image not before that is asked for.

        Raises:
          UserError: the file (or, later, the image) was changed or removed after it was opened.
        """
        if self._stat() != self._stamp:
            raise UserError(f"{self._path} was changed while it was in use: start again.")
        number, offset = (int(value) for value in self._lines[index])
        with self._path.open("rb") as file:
            file.seek(offset)
            row = self._parse(number, file.readline())
        where = f"{self._path}:{number}"
        return Example(
            id=row.id,
            pixels=functools.partial(_read_again, where, row.image),
            prefix=row.prefix,
            suffix=row.suffix,
            image_key=row.image.key,
            extra=row.extra,
            where=where,
        )

    def _index(
        self, tasks: set[str], counter: FaultCounter
    ) -> tuple[list[tuple[int, int]], list[ImageFile]]:
        """Parses every line: number and offset of the good ones, and their images."""
        lines, images = [], []
        seen: dict[str, int] = {}  # id: line
        found_tasks: set[str] = set()
        offset = 0
        with self._path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                start, offset = offset, offset + len(line)
                if not line.strip():
                    continue
                try:
                    row = self._parse(number, line)
                except BadExample as fault:
                    counter.add(fault)
                    continue
                if row.id in seen:
                    raise UserError(
                        f"{self._path}:{number}: the id {row.id!r} is that of line {seen[row.id]}: "
                        "give every row an id of its own, or none."
                    )
                seen[row.id] = number
                task = row.extra.get("task")
                if task is not None:
                    found_tasks.add(task)
                if tasks and task not in tasks:
                    continue
                if not row.image.path.is_file():
                    missing = f"the image {row.image.path} does not exist."
                    counter.add(self._at(number, BadExample("missing image", missing)))
                    continue
                lines.append((number, start))
                images.append(row.image)
        if unknown := sorted(tasks - found_tasks):
            raise UserError(
                f'{self._path} has no row with "task" {", ".join(map(repr, unknown))}: it has '
                f"{', '.join(sorted(found_tasks)) or 'none'}."
            )
        return lines, images

    def _parse(self, number: int, line: bytes) -> _Row:
        """Reads a line; BadExample, with file and line, says what is wrong with it."""
        try:
            row = _parse_object(line)
            path = self._root / _text(row, "image")
            prefix = _text(row, "prefix")
            if not prefix.strip():
                raise BadExample("empty question", '"prefix" is empty: write what is asked.')
            suffix = _text(row, "suffix")
            name = row.get("id", f"{self._path.name}:{number}")
            if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
                raise BadExample("wrong type", f'"id" is {name!r}: write a text or a number.')
            if row.get("task") is not None:
                _text(row, "task")
            image = image_file(path, row)
        except BadExample as fault:
            raise self._at(number, fault) from fault
        extra = {key: value for key, value in row.items() if key not in _OWN_KEYS}
        return _Row(str(name), image, prefix, suffix, extra)

    def _without_bad_images(
        self, lines: list[tuple[int, int]], images: list[ImageFile], counter: FaultCounter
    ) -> list[tuple[int, int]]:
        """Decodes every image once; keeps the lines whose image could be read."""
        faults = {}
        for image, fault in _unreadable(images):
            faults[image] = fault
            if counter.stops:
                break
        kept = []
        for line, image in zip(lines, images, strict=True):
            if image in faults:
                counter.add(self._at(line[0], faults[image]))
            else:
                kept.append(line)
        return kept

    def _at(self, number: int, fault: BadExample) -> BadExample:
        return BadExample(fault.reason, f"{self._path}:{number}: {fault}")

    def _stat(self) -> tuple[int, int]:
        stat = os.stat(self._path)
        return stat.st_size, stat.st_mtime_ns


def _read_again(where: str, image: ImageFile) -> UInt8[np.ndarray, "height width 3"]:
    try:
        return read_image(image)
    except BadExample as fault:
        raise UserError(f"{where}: {fault} It could be read when the file was opened.") from fault


def _unreadable(images: Iterable[ImageFile]) -> Iterator[tuple[ImageFile, BadExample]]:
    """Yields each image that can't be read, with what is wrong with it."""
    # All parts of a volume are read while it is in memory.
    by_path: dict[Path, dict[ImageFile, None]] = collections.defaultdict(dict)
    for image in images:
        by_path[image.path][image] = None

    def check(parts: Iterable[ImageFile]) -> list[tuple[ImageFile, BadExample]]:
        faults = []
        for part in parts:
            try:
                read_image(part)
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


def _text(row: dict[str, Any], key: str) -> str:
    if key not in row:
        raise BadExample(
            "missing key", f'the key "{key}" is missing; the row has {", ".join(row) or "no keys"}.'
        )
    if not isinstance(row[key], str):
        raise BadExample("wrong type", f'"{key}" is {row[key]!r:.80}: write a text.')
    try:
        row[key].encode()
    except UnicodeEncodeError as error:
        raise BadExample("invalid text", f'"{key}" has half a character ({error}).') from error
    return row[key]
