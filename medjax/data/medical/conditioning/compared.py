"""The parts of one or several datasets, and which of them may share nothing."""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

from medjax.data.faults import FaultCounter
from medjax.data.medical import catalogue
from medjax.data.medical.conditioning import hashes, overlays
from medjax.data.medical.conditioning.settings import Settings
from medjax.data.medical.record import SPLITS, Record
from medjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Part:
    """The records of one dataset and split.

    Attributes:
      dataset: its name; "" for the one that is being conditioned.
      split: one of `SPLITS`; "" for images without one, which may be used for anything.
      records: at least one.
    """

    dataset: str
    split: str
    records: tuple[Record, ...]

    @property
    def name(self) -> str:
        """As people call it, such as "vqa_rad test"."""
        return f"{self.dataset} {self.split or 'unsplit'}".strip()


def parts_of(records: Sequence[Record], dataset: str = "") -> list[Part]:
    """The parts of a dataset that have records; those without a split first."""
    of_split = ((split, tuple(r for r in records if r.split == split)) for split in ("", *SPLITS))
    return [Part(dataset, split, of) for split, of in of_split if of]


def to_compare(parts: Sequence[Part]) -> list[tuple[Part, Part]]:
    """Pairs of parts that may share nothing, the one nearer to training first.

    These are different splits, of one dataset or of two: training and validation, training and
    test, validation and test. Images without a split may share nothing with another dataset.
    """
    order = ("", *SPLITS).index
    return [
        (one, other) if order(one.split) <= order(other.split) else (other, one)
        for one, other in itertools.combinations(parts, 2)
        if one.split != other.split or not one.split
    ]


def named_folder(text: str, key: str) -> tuple[str, Path]:
    """Reads "name=folder".

    Args:
      key: where that is written, for messages.

    Raises:
      UserError: it is not written so, or there is no such dataset or folder.
    """
    name, equals, path = text.partition("=")
    folder = Path(path).expanduser()
    if not equals or not path or name not in catalogue.NAMES:
        raise UserError(
            f"{key} is {text!r}: write it as name=folder, the name one of "
            f"{', '.join(catalogue.NAMES)}."
        )
    if not folder.is_dir():
        raise UserError(f"{key} is {text!r}: there is no folder {folder}.")
    return name, folder


def read(name: str, folder: Path, settings: Settings, counter: FaultCounter) -> list[Record]:
    """A dataset's records with their hashes, burned-in text hidden as `settings.overlays` says.

    Args:
      counter: takes records that cannot be used.

    Raises:
      UserError: a file is missing.
    """
    records = list(catalogue.dataset(name).read(folder, counter))
    if settings.overlays != "keep":
        records, _ = overlays.step(records, settings)
    return hashes.with_hashes(records, f"what images of {name} look like")
