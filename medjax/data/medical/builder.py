"""The TFDS builders of medical datasets: from a folder of their own files to array_record.

A record is an image: its file's bytes as they are, what is known of it, and its questions. What
conditioning hides of an image is written down beside it (`hidden`, `crop`), and applied when it is
read (`record.shown`). Beside the records lie `<split>.parquet`, their texts without the images, and
what conditioning did: `conditioning.json` and `conditioning.html`.
"""

import dataclasses
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import tensorflow_datasets as tfds
from tqdm import tqdm

from medjax.data.datasets import building
from medjax.data.faults import FaultCounter
from medjax.data.medical import reading
from medjax.data.medical.conditioning import page
from medjax.data.medical.conditioning.run import condition
from medjax.data.medical.conditioning.settings import Settings
from medjax.data.medical.dataset import Dataset
from medjax.data.medical.record import SPLITS, Record
from medjax.errors import UserError

_log = logging.getLogger(__name__)

_PROGRESS_FROM = 500  # images


@dataclasses.dataclass(eq=False)
class Build(tfds.core.BuilderConfig):
    """One way to build a dataset: its name says the settings and the content of the files."""

    settings: Settings = dataclasses.field(default_factory=Settings)
    on_bad_example: str = "error"


class MedicalBuilder(
    tfds.core.GeneratorBasedBuilder,
    skip_registration=True,  # type: ignore[call-arg]
):
    """What the builders of `builder_class` have in common."""

    dataset: Dataset
    builder_config: Build

    def __reduce__(self) -> tuple:
        # The class cannot be found by its name, which pickle would look for.
        return _built_from, (self.dataset, self.data_dir_root, self.builder_config)

    def _create_builder_config(self, builder_config: Build, version: Any) -> Build:
        # TFDS would warn of every config that the class does not list.
        return builder_config

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        question = {field.name: text for field in dataclasses.fields(reading.Question)}
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{self.dataset.title}. {self.dataset.source}. {self.dataset.licence}",
            features=tfds.features.FeaturesDict(
                {
                    "id": text,
                    # Not features.Image, which knows no DICOM.
                    "image": text,
                    "mask": text,  # empty where there is none
                    "part": text,  # of the file, see `reading.part_of`
                    "patient": text,
                    "facts": text,  # JSON
                    "hidden": text,  # JSON
                    "crop": text,  # JSON
                    "hashes": text,
                    "questions": tfds.features.Sequence(question),
                }
            ),
            # Records stay in the dataset's order.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        """Reads and conditions; raises UserError where either cannot be done."""
        settings = self.builder_config.settings
        counter = FaultCounter(self.builder_config.on_bad_example)
        records = reading.read(self.dataset, Path(dl_manager.manual_dir), settings, counter)
        records = reading.readable(records, counter)
        faults = dict(counter.counts)
        try:
            done = condition(records, settings, name=self.dataset.name)
        except UserError as error:
            if conditioned := getattr(error, "conditioned", None):
                error.conditioned = dataclasses.replace(  # type: ignore[attr-defined]
                    conditioned, faults=faults
                )
            raise
        for report in done.reports:
            for warning in report.warnings:
                _log.warning("%s, %s: %s", self.dataset.name, report.name, warning)
        folder = Path(self.data_dir)
        page.write(folder, dataclasses.replace(done, faults=faults))
        parts = {
            split: [r for r in done.records if r.split == split and r.questions] for split in SPLITS
        }
        if not any(parts.values()):
            nothing = UserError(
                f"{self.dataset.name}: conditioning leaves no question with a split; see its "
                "settings, data.conditioning."
            )
            # For the page that shows which step took them away, see `build.built`.
            nothing.conditioned = done  # type: ignore[attr-defined]
            raise nothing
        for split, of_split in parts.items():
            if of_split:
                pyarrow.parquet.write_table(
                    _texts(of_split), folder / f"{split}.parquet", compression="zstd"
                )
        return {split: self._generate_examples(found) for split, found in parts.items() if found}

    def _example_writer(self) -> building.SameBytes:
        return building.SameBytes(self.info.file_format)

    def _generate_examples(self, records: Sequence[Record]) -> Iterator[tuple[int, dict]]:
        bar = tqdm(
            records,
            desc=f"{self.dataset.name} {records[0].split}",
            unit="image",
            disable=len(records) < _PROGRESS_FROM,
        )
        for number, record in enumerate(bar):
            yield (
                number,
                {
                    "id": record.id,
                    "image": record.image.read(),
                    "mask": record.mask.read() if record.mask else b"",
                    "part": reading.part_of(record.image),
                    "patient": record.patient,
                    "facts": _json(record.facts),
                    "hidden": _json(record.hidden),
                    "crop": _json(record.crop),
                    "hashes": record.hashes,
                    "questions": [
                        dataclasses.asdict(question) | {"facts": _json(question.facts)}
                        for question in record.questions
                    ],
                },
            )


def builder_class(dataset: Dataset) -> type[MedicalBuilder]:
    """The TFDS builder of a dataset, called as it is."""
    values = {
        "__module__": __name__,
        "name": dataset.name,
        "dataset": dataset,
        "VERSION": tfds.core.Version(dataset.version),
        "MANUAL_DOWNLOAD_INSTRUCTIONS": dataset.files,
        "__doc__": f"{dataset.title}.",
    }
    # Not registered: TFDS would refuse the second of a name.
    return type(dataset.name, (MedicalBuilder,), values, skip_registration=True)


def _built_from(dataset: Dataset, data_dir: Path, config: Build) -> MedicalBuilder:
    return builder_class(dataset)(data_dir=data_dir, config=config)


def _texts(records: Sequence[Record]) -> pyarrow.Table:
    """A row for each question, in the records' order; `record` is the number of its image."""
    rows: dict[str, list] = {}
    for number, record in enumerate(records):
        facts = _json(record.facts)
        for question in record.questions:
            row = dataclasses.asdict(question) | {
                "facts": _json(question.facts),
                "record": number,
                "image_id": record.id,
                "patient": record.patient,
                "hashes": record.hashes,
                "record_facts": facts,
            }
            for name, value in row.items():
                rows.setdefault(name, []).append(value)
    return pyarrow.table(rows)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=dict)
