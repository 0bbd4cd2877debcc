"""A built medical dataset as examples."""

import functools
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet
from jaxtyping import UInt8

from medjax.data.example import Example
from medjax.data.image_files import ImageFile, read_bytes
from medjax.data.medical import build, catalogue
from medjax.data.medical.conditioning import page
from medjax.data.medical.conditioning.settings import DEFAULT, Settings
from medjax.data.medical.reading import file_of
from medjax.data.medical.record import SHORT_FACTS, SPLITS, FileImage, Question, Record, shown
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

    Attributes:
      name, split: of the dataset.
      report: the page that tells what was done to the data.
      built: the dataset's name and, after a slash, what tells this build of it from others.
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
        if split not in SPLITS:  # told before anything is built, which may take long
            raise UserError(f"{name} has no split {split!r}: name one of {', '.join(SPLITS)}.")
        dataset = catalogue.dataset(name)
        builder = build.built(dataset, folder, data_dir, settings, on_bad_example)
        if split not in builder.info.splits:
            raise UserError(
                f"{name} has no split {split!r}: it has {', '.join(builder.info.splits)}."
            )
        self.faults: Mapping[str, int] = build.faults(builder)
        self.name, self.split = name, split
        self.report = builder.data_path / page.FILES[1]
        self.built = f"{name}/{builder.builder_config.name}"
        self._records = builder.as_data_source(split)
        texts = pyarrow.parquet.read_table(
            builder.data_path / f"{split}.parquet",
            read_dictionary=["record_facts", "patient", "image_id", "hashes"],
        )
        texts = _only(texts, "task", tasks, f"{name}, {split}", dataset.variants)
        self._texts = _only(texts, "mode", modes, f"{name}, {split}").combine_chunks()

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
            image_key=f"{self.built}/{row['image_id']}",
            extra=extra,
            where=f"{self.name}, {self.split}, image {row['image_id']}",
        )

    def records(self) -> Iterator[Record]:
        """What the questions are about, image by image: all but pixels, with captions alone."""
        columns = ["record", "image_id", "patient", "hashes", "record_facts"]
        rows = self._texts.select([*columns, "id", "task", "form", "answer"]).to_pylist()
        for _, group in itertools.groupby(rows, lambda row: row["record"]):
            of_image = list(group)
            first = of_image[0]
            yield Record(
                id=first["image_id"],
                image=FileImage(ImageFile(Path(self.built, first["image_id"]))),
                patient=first["patient"],
                split=self.split,
                questions=tuple(
                    Question(row["id"], row["task"], "", row["answer"], "caption")
                    for row in of_image
                    if row["form"] == "caption"
                ),
                facts=json.loads(first["record_facts"]),
                hashes=first["hashes"],
            )

    def _pixels(self, number: int) -> UInt8[np.ndarray, "height width 3"]:
        record = self._records[number]
        pixels = read_bytes(record["image"], file_of(record["part"].decode()))
        crop = json.loads(record["crop"])
        hidden = tuple(tuple(box) for box in json.loads(record["hidden"]))
        return shown(pixels, hidden, None if crop is None else tuple(crop))


def _only(
    table: pyarrow.Table,
    column: str,
    wanted: Sequence[str],
    where: str,
    several: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> pyarrow.Table:
    """The rows whose column has one of these values; all if there are none.

    Args:
      several: names for several values at once, not all of which need be there.

    Raises:
      UserError: a value that no row has.
    """
    if not wanted:
        return table
    found = set(table[column].unique().to_pylist())
    values = {name: found.intersection(several.get(name, (name,))) for name in wanted}
    if unknown := [name for name, of_name in values.items() if not of_name]:
        raise UserError(
            f"{where}: there is no {column} {', '.join(map(repr, unknown))}: there is "
            f"{', '.join(sorted(filter(None, found))) or 'none at all'}."
        )
    kept = pyarrow.array(sorted(set().union(*values.values())))
    return table.filter(pyarrow.compute.is_in(table[column], kept))
