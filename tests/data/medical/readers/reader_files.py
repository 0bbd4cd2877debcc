"""What the tests of several readers share: tiny images, and readers run to their end."""

import io
import json
import pathlib

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from medjax.data.faults import FaultCounter
from medjax.data.medical import catalogue
from medjax.data.medical.record import Record


def read(name: str, folder: pathlib.Path, on_bad_example: str = "error") -> list[Record]:
    """All records of a folder."""
    return list(catalogue.dataset(name).read(folder, FaultCounter(on_bad_example)))


def faults(name: str, folder: pathlib.Path) -> dict[str, int]:
    """How many records a reader leaves out, by reason."""
    counter = FaultCounter("skip")
    list(catalogue.dataset(name).read(folder, counter))
    return dict(counter.counts)


def png(value: int, height: int = 4, width: int = 6) -> bytes:
    """An image file of one grey."""
    file = io.BytesIO()
    Image.fromarray(np.full((height, width), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def write_image(path: pathlib.Path, value: int, height: int = 4, width: int = 6) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(value, height, width))


def write_json(path: pathlib.Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def write_parquet(path: pathlib.Path, rows: list[dict], rows_a_group: int = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=rows_a_group)


def pair(value: int | None, question: str | None, answer: str | None) -> dict:
    """A row as the Hugging Face Hub has it."""
    image = {"bytes": None if value is None else png(value), "path": None}
    return {"image": image, "question": question, "answer": answer}
