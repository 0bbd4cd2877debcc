"""A built medical dataset as examples."""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet
from jaxtyping import UInt8

from medjax.data.example import Example
from medjax.data.image_files import read_bytes
from medjax.data.medical import build, catalogue
from medjax.data.medical.conditioning.settings import DEFAULT, Settings
from medjax.data.medical.reading import file_of
from medjax.data.medical.record import SHORT_FACTS, shown
from medjax.errors import UserError

# How a question is put to PaliGemma, by its form.
_PREFIXES = {
    "answer": "answer {language} {question}",
    "caption": "caption {language}",
    "detect": "detect {question}",
}


def prefix_of(form: str, language: str, question: str) -> str:
    """The prompt of a question; forms and languages are `record.Question`'s."""
    return _PREFIXES[form].format(language=language, question=question)


class MedicalSource:
    """One example a question, image by image.

    `extra` holds task, patient, image_id, language, mode, origin, the image's `SHORT_FACTS` and the
    question's own facts. Scores should be resampled over patients.
    """

    def __init__(
        self,
        name: str,
        *,
        folder: str | Path,
        data_dir: str | Path,
        split: str,
        tasks: Sequence[str] = (),
        modes: Sequence[str] = (),
        settings: Settings = DEFAULT,
        on_bad_example: str = "error",
    ):
        """Opens a split, building the dataset if `data_dir` lacks it as the settings want it.

        Args:
          name: of `catalogue.NAMES`.
          folder: of the files that the dataset's owners gave out.
          data_dir: where TFDS datasets live.
          split: "train", "validation" or "test".
          tasks: those to keep, by their names or those of the dataset's variants; all if empty.
          modes: those to keep: "pre_training", "alignment"; all if empty.
          settings: of conditioning.
          on_bad_example: see `faults.FaultCounter`.

        Raises:
          UserError: a split, task or mode that is not there, or the dataset cannot be built.
        """
        dataset = catalogue.dataset(name)
        builder = build.built(dataset, folder, data_dir, settings, on_bad_example)
        if split not in builder.info.splits:
            raise UserError(
                f"{name} has no split {split!r}: it has {', '.join(builder.info.splits)}."
            )
        self.faults: Mapping[str, int] = build.faults(builder)
        self.name, self.split = name, split
        self._prefix = f"{name}/{builder.builder_config.name}"
        self._records = builder.as_data_source(split)
        texts = pyarrow.parquet.read_table(
            builder.data_path / f"{split}.parquet",
            read_dictionary=["record_facts", "patient", "image_id", "hashes"],
        )
        wanted = {task for t in tasks for task in dataset.variants.get(t, (t,))}
        texts = _only(texts, "task", wanted, f"{name}, {split}")
        self._texts = _only(texts, "mode", set(modes), f"{name}, {split}").combine_chunks()

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, index: int) -> Example:
        row = self._texts.slice(int(index), 1).to_pylist()[0]
        facts = json.loads(row["record_facts"])
        extra: dict[str, Any] = {"task": row["task"], "patient": row["patient"] or row["image_id"]}
        extra |= {key: row[key] for key in ("image_id", "language", "mode", "origin")}
        extra |= {key: facts[key] for key in (*SHORT_FACTS, "seen") if key in facts}
        extra |= json.loads(row["facts"])
        return Example(
            id=row["id"],
            pixels=functools.partial(self._pixels, row["record"]),
            prefix=prefix_of(row["form"], row["language"], row["question"]),
            suffix=row["answer"],
            image_key=f"{self._prefix}/{row['image_id']}",
            extra=extra,
            where=f"{self.name}, {self.split}, image {row['image_id']}",
        )

    def _pixels(self, number: int) -> UInt8[np.ndarray, "height width 3"]:
        record = self._records[number]
        pixels = read_bytes(record["image"], file_of(record["part"].decode()))
        crop = json.loads(record["crop"])
        hidden = tuple(tuple(box) for box in json.loads(record["hidden"]))
        return shown(pixels, hidden, None if crop is None else tuple(crop))


def _only(table: pyarrow.Table, column: str, wanted: set[str], where: str) -> pyarrow.Table:
    """The rows whose column has one of these values; all if there are none.

    Raises:
      UserError: a value that no row has.
    """
    if not wanted:
        return table
    found = set(table[column].unique().to_pylist())
    if unknown := sorted(wanted - found):
        raise UserError(
            f"{where}: there is no {column} {', '.join(map(repr, unknown))}: name some of "
            f"{', '.join(sorted(filter(None, found)))}."
        )
    return table.filter(pyarrow.compute.is_in(table[column], pyarrow.array(sorted(wanted))))
