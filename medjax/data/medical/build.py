"""Datasets that are built when they are first wanted as some settings want them."""

import collections
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from medjax.data.datasets import building
from medjax.data.medical.builder import Build, builder_class
from medjax.data.medical.conditioning import page
from medjax.data.medical.conditioning.settings import Settings
from medjax.data.medical.dataset import Dataset
from medjax.errors import UserError
from medjax.files import Temporary

# Raised when what conditioning makes of the same records and settings changes.
_CONDITIONING = 1
# Files up to this size are part of a folder's checksum whole, larger ones and images by size.
_WHOLE = 64 * 2**20
_IMAGES = (".png", ".jpg", ".jpeg", ".dcm", ".tif", ".tiff", ".bmp", ".gif", ".webp")


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
    if not folder.is_dir():
        raise UserError(
            f"{dataset.name}: there is no folder {folder}. It must hold {dataset.files} Set "
            "data.manual_dir to what it lies in, or `folder` of the source to another one."
        )
    name = _name(folder, settings, on_bad_example)
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


def _name(folder: Path, settings: Settings, on_bad_example: str) -> str:
    """A checksum of all that the built dataset depends on."""
    digest = hashlib.sha256()
    values = dataclasses.asdict(settings) | {"on_bad_example": on_bad_example}
    digest.update(json.dumps([_CONDITIONING, values], sort_keys=True).encode())
    for named in (*settings.question_tables, settings.tokenizer):
        if named and Path(named).expanduser().is_file():
            digest.update(Path(named).expanduser().read_bytes())
    others = (Path(other.partition("=")[2]).expanduser() for other in settings.against)
    for root in (folder, *others):
        for path in _files(root):
            size = path.stat().st_size
            digest.update(f"{path.relative_to(root)} {size}\n".encode())
            if size <= _WHOLE and path.suffix.lower() not in _IMAGES:
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(parent) / name for name in sorted(names))
