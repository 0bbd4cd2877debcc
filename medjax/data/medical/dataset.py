"""What is said of a dataset beside its records."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from medjax.data.faults import FaultCounter
from medjax.data.medical.record import Record


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset that its users get from its owners, and put into a folder.

    Attributes:
      name: by which configs know it; also of its module in `readers`.
      title: as its authors call it.
      licence: of the data, as its authors state it.
      source: paper and place.
      files: what the folder must hold, for messages and documentation.
      read: gives the records of a folder, in the dataset's order: images are named, not read. It
        raises UserError where a file is missing, and hands records that cannot be used to the
        counter; both name file and record.
      variants: names for several tasks at once.
      version: of what `read` makes of the files, major.minor.patch.
      prepare: puts what else `read` needs into the folder, if it is not there yet: called before
        the folder is looked at for changes.
      make: writes the files into a new folder, where medjax draws them itself.
    """

    name: str
    title: str
    licence: str
    source: str
    files: str
    read: Callable[[Path, FaultCounter], Iterator[Record]]
    variants: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    version: str = "1.0.0"
    prepare: Callable[[Path], object] | None = None
    make: Callable[[Path], None] | None = None
