"""Datasets that are built when they are first wanted as some settings want them."""

import collections
import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from medjax.data.datasets import building
from medjax.data.medical import catalogue, checksums
from medjax.data.medical.builder import Build, builder_class
from medjax.data.medical.conditioning import page
from medjax.data.medical.conditioning.compared import named_folder
from medjax.data.medical.conditioning.settings import Settings
from medjax.data.medical.dataset import Dataset
from medjax.errors import UserError
from medjax.files import Temporary

# Raised when what conditioning makes of the same records and settings changes.
_CONDITIONING = 2


def built(
    dataset: Dataset,
    folder: str | Path,
    data_dir: str | Path,
    settings: Settings,
    on_bad_example: str = "error",
) -> tfds.core.DatasetBuilder:
    """The dataset's builder, its data built if `data_dir` lacks them for these settings and files.

    Raises:
      UserError: the folder is missing, or something in it cannot be used; parts of the data leak
        into one another and `settings.leaks` is "error".
    """
    data_dir = Path(data_dir).expanduser()
    folder = _drawn(dataset, data_dir) if dataset.make else Path(folder).expanduser()
    if not folder.is_dir() or not any(folder.iterdir()):
        lacking = "there is nothing in" if folder.is_dir() else "there is no folder"
        raise UserError(
            f"{dataset.name}: {lacking} {folder}. It must hold {dataset.files.rstrip('.')}. Set "
            "data.manual_dir to what it lies in, or `folder` of the source to another one."
        )
    # One setting serves all datasets of a run, each of which is among those named, too.
    others = tuple(text for text in settings.against if not _is(text, dataset, folder))
    settings = dataclasses.replace(settings, against=others)
    name = _name(dataset, folder, settings, on_bad_example)
    config = Build(name=name, settings=settings, on_bad_example=on_bad_example)

    def make() -> tfds.core.DatasetBuilder:
        return builder_class(dataset)(data_dir=data_dir, config=config, file_format="array_record")

    try:
        return building.built(make, data_dir, folder=folder)
    except UserError as error:
        if (conditioned := getattr(error, "conditioned", None)) is None:
            raise
        refused = data_dir / dataset.name / f"{name}-refused"
        page.write(refused, conditioned)
        raise UserError(f"{error} All of it is in {refused / page.FILES[1]}.") from error


def faults(builder: tfds.core.DatasetBuilder) -> collections.Counter[str]:
    """How many records were left out when the dataset was built, by reason."""
    return collections.Counter(report(builder)["faults"])


def report(builder: tfds.core.DatasetBuilder) -> Mapping[str, Any]:
    """What conditioning did, as `conditioning.json` has it."""
    return json.loads((builder.data_path / page.FILES[0]).read_text())


def _drawn(dataset: Dataset, data_dir: Path) -> Path:
    """The folder of files that medjax draws itself, drawn if it is not there."""
    folder = data_dir / "drawn" / f"{dataset.name}-{dataset.version}"
    if not folder.exists():
        assert dataset.make is not None
        with building.locked(data_dir / f".{dataset.name}-drawn.lock", dataset.name):
            if not folder.exists():
                with Temporary(folder) as temporary:
                    dataset.make(temporary / folder.name)
                    os.replace(temporary / folder.name, folder)
    return folder


def _name(dataset: Dataset, folder: Path, settings: Settings, on_bad_example: str) -> str:
    """A checksum of all that the built dataset depends on."""
    digest = hashlib.sha256()
    values = dataclasses.asdict(settings) | {"on_bad_example": on_bad_example}
    # Where files lie is not part of what is in them.
    del values["question_tables"], values["tokenizer"], values["against"]
    digest.update(json.dumps([_CONDITIONING, values], sort_keys=True).encode())
    for key, paths in (
        ("question_tables", settings.question_tables),
        ("tokenizer", filter(None, [settings.tokenizer])),
    ):
        for path in paths:
            digest.update(f"{key} {Path(path).name} {_content(key, path)}\n".encode())
    for of, root in ((dataset, folder), *map(_other, settings.against)):
        if of.prepare:
            of.prepare(root)
        digest.update(f"{of.name} {of.version} {checksums.of_folder(root)}\n".encode())
    return digest.hexdigest()[:16]


def _content(key: str, path: str) -> str:
    try:
        return hashlib.sha256(Path(path).expanduser().read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(
            f"data.conditioning.{key} has {path}, which can't be read ({error.strerror})."
        ) from error


def _is(text: str, dataset: Dataset, folder: Path) -> bool:
    """Whether a text of `Settings.against` names this very dataset."""
    other, path = _other(text)
    return other.name == dataset.name and path.samefile(folder)


def _other(text: str) -> tuple[Dataset, Path]:
    name, folder = named_folder(text, "data.conditioning.against")
    return catalogue.dataset(name), folder
