"""Which part of MedPix 2.0 a case belongs to, as its authors published it.

`uid_list.json` is an object of lists of U_ids: train (train_1 and train_2 are its halves), dev,
test. Beside it, data_<part>.jsonl holds the cases of a part, descriptions_<part>.jsonl its images.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from medjax.data.faults import BadExample, FaultCounter
from medjax.data.json_lines_file import JsonLinesFile, text_of
from medjax.errors import UserError

FOLDER = "splitted_dataset"
UIDS = "uid_list.json"

_PARTS = {"train": "train", "dev": "validation", "test": "test"}


class Splits:
    """The parts of cases, with the files that say so."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, str]] = {}  # case: part: the file that says so first

    def add(self, case: str, part: str, where: str) -> None:
        """Notes that a file has a case in a part."""
        self._found.setdefault(case, {}).setdefault(part, where)

    def of(self, case: str) -> str:
        """The part of a case; "" if no file has it.

        Raises:
          BadExample: it is in two parts.
        """
        parts = self._found.get(case, {})
        if len(parts) > 1:
            both = " and ".join(f"{part} ({where})" for part, where in parts.items())
            raise BadExample("case in two splits", f"the case {case} is in {both}.")
        return next(iter(parts), "")


def read(root: Path, counter: FaultCounter) -> Splits:
    """Reads the files of the splits under the dataset's folder; there may be none.

    Lines that are damaged go to the counter.

    Raises:
      UserError: `uid_list.json` is damaged, or a file or a key of it is of no known part.
    """
    splits = Splits()
    folder = root / FOLDER
    uids = folder / UIDS
    if uids.is_file():
        for key, cases in _read_lists(uids).items():
            part = _part(key, uids)
            for case in cases:
                splits.add(case, part, f"{uids.name}: {key}")
    for path in sorted(folder.glob("*.jsonl")):
        # Files of other names are not the split's.
        if re.match(r"(data|descriptions)_", path.name):
            part = _part(path.stem.split("_", 1)[1], path)
            for place, row in JsonLinesFile(path, _parse).rows(counter):
                splits.add(row.case, part, f"{path.name}:{place.number}")
    return splits


class _Row(NamedTuple):
    id: str
    case: str


def _parse(row: dict[str, Any], name: str) -> _Row:
    return _Row(name, text_of(row, "U_id").strip())


def _read_lists(path: Path) -> Mapping[str, list[str]]:
    try:
        lists = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not JSON ({error}): get the file anew.") from error
    if not isinstance(lists, dict):
        raise UserError(f"{path} holds no JSON object of lists of U_ids: get the file anew.")
    for key, cases in lists.items():
        if not isinstance(cases, list) or not all(isinstance(case, str) for case in cases):
            raise UserError(f'{path}: "{key}" is no list of U_ids: get the file anew.')
    return lists


def _part(key: str, path: Path) -> str:
    """train, train_1 and train_2 are one part."""
    if (part := _PARTS.get(re.sub(r"_\d+$", "", key))) is None:
        raise UserError(f"{path}: {key!r} is none of the parts {', '.join(_PARTS)}.")
    return part
