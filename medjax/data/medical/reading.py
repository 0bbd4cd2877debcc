"""From a dataset's folder to its records, with the questions of tables added."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from medjax.data.faults import BadExample, FaultCounter
from medjax.data.image_files import ImageFile
from medjax.data.medical.conditioning.overlays import of_images
from medjax.data.medical.conditioning.settings import Settings
from medjax.data.medical.dataset import Dataset
from medjax.data.medical.readers import question_table
from medjax.data.medical.record import FileImage, Image, Question, Record
from medjax.errors import UserError

__all__ = ["Question", "file_of", "part_of", "read", "readable"]


def read(dataset: Dataset, folder: Path, settings: Settings, counter: FaultCounter) -> list[Record]:
    """The dataset's records, and the further questions that the settings name.

    Raises:
      UserError: a file is missing or damaged, or there is no record.
    """
    if not folder.is_dir():
        raise UserError(
            f"{dataset.name}: there is no folder {folder}. It must hold {dataset.files}"
        )
    records = list(dataset.read(folder, counter))
    if not records:
        raise UserError(f"{dataset.name}: {folder} holds no record that can be used")
    for table in settings.question_tables:
        records = question_table.add(records, Path(table).expanduser(), counter)
    return records


def readable(records: Sequence[Record], counter: FaultCounter) -> list[Record]:
    """The records whose images, and masks, can be read: training is no time to find out.

    Args:
      counter: takes the others.
    """
    kept = []
    tried = of_images(records, lambda record, pixels: True, "checking images")
    for record, can_be_read in zip(records, tried, strict=True):
        try:
            if not can_be_read:
                record.image.pixels()  # once more, for what it says
            if record.mask is not None:
                record.mask.pixels()
        except BadExample as fault:
            where = f"{record.where}: " if record.where else ""
            counter.add(BadExample(fault.reason, f"{where}{fault}"))
        else:
            kept.append(record)
    return kept


def part_of(image: Image) -> str:
    """Which part of its file an image is, and the file's name, as JSON; for `file_of`."""
    file = image.file if isinstance(image, FileImage) else ImageFile(Path(image.key))
    return json.dumps({"name": file.path.name, "frame": file.frame, "window": file.window})


def file_of(part: str) -> ImageFile:
    """What `part_of` wrote."""
    values = json.loads(part)
    window = values["window"]
    return dataclasses.replace(
        ImageFile(Path(values["name"])),
        frame=values["frame"],
        window=None if window is None else (float(window[0]), float(window[1])),
    )
