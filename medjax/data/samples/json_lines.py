"""One's own data for 4M: JSON lines whose keys are the names of values.

    {"id": "7", "ct": "7.nii.gz", "organ": "7-organs.nii.gz", "axis": "axial", "slice": 40,
     "report": "no fracture", "det": [{"box": [0.1, 0.2, 0.5, 0.6], "label": "liver"}]}

How a value is written follows from its content; see `values.parse`. Of volumes and images of
several frames `axis`, `slice` and `frame` say which part is meant, for all files of the line;
`window` is of its images. `id` is optional and must be unique. Any other key is kept in
`Sample.extra`. Blank lines are skipped.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medjax.data.array_cache import ArrayCache
from medjax.data.faults import FaultCounter
from medjax.data.json_lines_file import JsonLinesFile, folder_of, id_of, read_again
from medjax.data.samples import values as values_lib
from medjax.data.samples.sample import Sample
from medjax.data.samples.values import Limits, ValueFile


class _Row(NamedTuple):
    id: str
    values: dict[str, Any]
    extra: dict[str, Any]


class JsonLinesSamples:
    """The samples of a JSON-lines file, in its order.

    Everything is checked when the file is opened, every file that it names read once, so that the
    length is fixed and training does not stop in the middle. What is kept in memory is where each
    line starts.

    Attributes:
      names: the values that every sample has.
      faults: how many rows were left out, by reason.
    """

    def __init__(
        self,
        path: str | Path,
        values: Mapping[str, Limits],
        *,
        image_root: str | Path = "",
        on_bad_example: str = "error",
        cache_bytes: int = 256 * 2**20,
    ):
        """Opens and checks a file.

        Args:
          path: of the file.
          values: what every row must have, by name.
          image_root: the folder that paths start from; the file's own if empty.
          on_bad_example: "error" or "skip".
          cache_bytes: bounds the memory for what was read of files last; 0 keeps nothing.

        Raises:
          UserError: the file or a folder is missing, no row is left, two rows have one id, or a row
            is bad and `on_bad_example` is "error".
        """
        self.names = tuple(values)
        self._cache = ArrayCache(cache_bytes)
        counter = FaultCounter(on_bad_example)
        root = folder_of(path, image_root)
        self._file = JsonLinesFile(path, functools.partial(_parse, root, dict(values)))
        rows = [(place, _files(row)) for place, row in self._file.rows(counter)]
        # An array takes less memory than a list, where there are millions.
        self._places = np.array(self._file.readable(rows, values_lib.read, counter), np.int64)
        self.faults: Mapping[str, int] = counter.counts

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Sample:
        """Reads a sample, its files not before they are asked for.

        Raises:
          UserError: the file (or, later, one that it names) was changed after it was opened.
        """
        row, where = self._file.row(self._places[index])
        values = {
            name: functools.partial(_read_again, self._cache, where, value)
            if isinstance(value, ValueFile)
            else value
            for name, value in row.values.items()
        }
        return Sample(row.id, values, row.extra, where)


def _parse(root: Path, values: Mapping[str, Limits], row: dict[str, Any], name: str) -> _Row:
    found = {key: values_lib.parse(row, key, limits, root) for key, limits in values.items()}
    extra = {key: value for key, value in row.items() if key not in values and key != "id"}
    return _Row(id_of(row, name), found, extra)


def _read_again(cache: ArrayCache, where: str, value: ValueFile) -> np.ndarray:
    return cache.get(value, lambda: read_again(where, values_lib.read, value))


def _files(row: _Row) -> tuple[ValueFile, ...]:
    return tuple(value for value in row.values.values() if isinstance(value, ValueFile))
