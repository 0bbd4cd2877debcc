"""Tables as datasets come in: CSV files, and the parquet files of the Hugging Face Hub."""

import csv
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
import pyarrow.parquet

from medjax.data.faults import BadExample, FaultCounter
from medjax.data.medical.record import SPLITS, ParquetImage
from medjax.errors import UserError

# How the parts are called in files, and here.
PARTS = {
    "train": "train",
    "validation": "validation",
    "validate": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}


def csv_rows(
    path: Path, columns: Sequence[str], counter: FaultCounter
) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a CSV file with a header, one after another, never all at once.

    Args:
      path: of the file, UTF-8.
      columns: that it must have; others are read, too.
      counter: told of rows that have another number of fields than the header.

    Yields:
      Where a row is ("train.csv:7", the line that it ends on), and its texts by column.

    Raises:
      UserError: the file is missing, is no CSV file in UTF-8, or lacks a column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            if lacking := [name for name in columns if name not in header]:
                raise UserError(
                    f"{path} lacks the column {', '.join(map(repr, lacking))}: "
                    f"it has {', '.join(map(repr, header)) or 'none'}."
                )
            for fields in reader:
                where = f"{path}:{reader.line_num}"
                if len(fields) == len(header):
                    yield where, dict(zip(header, fields, strict=True))
                elif fields:  # an empty line is no row
                    wrong = f"{where}: the row has {len(fields)} fields, the header {len(header)}."
                    counter.add(BadExample("damaged row", wrong))
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error}): get the file anew.") from error
    except csv.Error as error:
        raise UserError(
            f"{path}:{reader.line_num} is no CSV ({error}): get the file anew."
        ) from error


def parquet_parts(folder: Path) -> dict[str, list[Path]]:
    """The parquet files of each part, such as train-00000-of-00001.parquet, by the part's name.

    They are looked for in the folder and in its folder `data`, where the Hub has them.
    """
    parts: dict[str, list[Path]] = {split: [] for split in SPLITS}
    for path in sorted([*folder.glob("*.parquet"), *folder.glob("data/*.parquet")]):
        if part := PARTS.get(path.name.removesuffix(".parquet").split("-")[0]):
            parts[part].append(path)
    return {part: paths for part, paths in parts.items() if paths}


class ParquetRow(NamedTuple):
    """A row but for its image's bytes.

    Attributes:
      number: in its file, from 0 on.
      where: it is, for messages.
      image: that it holds.
      digest: of the image's bytes, sha256 in hexadecimal; "" if that is not wanted.
      values: of the columns that are wanted.
    """

    number: int
    where: str
    image: ParquetImage
    digest: str
    values: dict[str, Any]


def parquet_rows(
    path: Path, columns: Sequence[str], counter: FaultCounter, *, digests: bool
) -> Iterator[ParquetRow]:
    """The rows of a parquet file with a column "image" ({bytes, path} or bytes).

    Args:
      path: of the file.
      columns: that it must have beside the image.
      counter: told of rows without an image, where digests are wanted.
      digests: tells which rows have the same image, without decoding any; else images aren't read.

    Raises:
      UserError: the file can't be read or lacks a column.
    """
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if lacking := [name for name in ("image", *columns) if name not in names]:
                raise UserError(
                    f"{path} lacks the column {', '.join(map(repr, lacking))}: "
                    f"it has {', '.join(map(repr, names))}."
                )
            start = 0
            for group in range(file.num_row_groups):
                texts = file.read_row_group(group, list(columns)).to_pylist()
                images = file.read_row_group(group, ["image"])["image"] if digests else None
                for row, values in enumerate(texts):
                    number = start + row
                    where = f"{path}, row {number}"
                    digest = ""
                    if images is not None and not (digest := _digest(images[row])):
                        counter.add(BadExample("missing image", f"{where}: there is no image."))
                        continue
                    image = ParquetImage(path, group, row)
                    yield ParquetRow(number, where, image, digest, values)
                start += len(texts)
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} can't be read ({error}): get the file anew.") from error


def _digest(image: Any) -> str:
    """Of a scalar; "" if it holds no image."""
    if isinstance(image, pyarrow.StructScalar) and image.is_valid:
        image = image["bytes"]
    if not image.is_valid or not (data := image.as_buffer()).size:
        return ""
    return hashlib.sha256(data).hexdigest()
