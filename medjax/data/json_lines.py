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

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from medjax.data.example import Example
from medjax.data.faults import BadExample, FaultCounter
from medjax.data.image_files import ImageFile, image_file, read_image
from medjax.data.json_lines_file import JsonLinesFile, folder_of, id_of, read_again, text_of
from medjax.errors import UserError

_OWN_KEYS = ("image", "prefix", "suffix", "id")


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
        file = JsonLinesFile(path, functools.partial(_parse, folder_of(path, image_root)))
        rows = []
        found_tasks: set[str] = set()
        for place, row in file.rows(counter):
            task = row.extra.get("task")
            if task is not None:
                found_tasks.add(task)
            if tasks and task not in tasks:
                continue
            if not row.image.path.is_file():
                missing = f"the image {row.image.path} does not exist."
                counter.add(file.at(place.number, BadExample("missing image", missing)))
                continue
            rows.append((place, (row.image,)))
        if unknown := sorted(set(tasks) - found_tasks):
            raise UserError(
                f'{file.path} has no row with "task" {", ".join(map(repr, unknown))}: it has '
                f"{', '.join(sorted(found_tasks)) or 'none'}."
            )
        self._file = file
        # An array takes less memory than a list, where there are millions.
        self._places = np.array(file.readable(rows, read_image, counter), np.int64)
        self.faults: Mapping[str, int] = counter.counts

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Example:
        """Reads an example, its image not before that is asked for.

        Raises:
          UserError: the file (or, later, the image) was changed or removed after it was opened.
        """
        row, where = self._file.row(self._places[index])
        return Example(
            id=row.id,
            pixels=functools.partial(_read_again, where, row.image),
            prefix=row.prefix,
            suffix=row.suffix,
            image_key=row.image.key,
            extra=row.extra,
            where=where,
        )


def _read_again(where: str, image: ImageFile) -> UInt8[np.ndarray, "height width 3"]:
    return read_again(where, read_image, image)


def _parse(root: Path, row: dict[str, Any], name: str) -> _Row:
    path = root / text_of(row, "image")
    prefix = text_of(row, "prefix")
    if not prefix.strip():
        raise BadExample("empty question", '"prefix" is empty: write what is asked.')
    suffix = text_of(row, "suffix")
    name = id_of(row, name)
    if row.get("task") is not None:
        text_of(row, "task")
    extra = {key: value for key, value in row.items() if key not in _OWN_KEYS}
    return _Row(name, image_file(path, row), prefix, suffix, extra)
