"""A small data set in MedPix 2.0's form, drawn once, and built once."""

import dataclasses
import pathlib
from typing import Any

import pytest

from medjax.data.medical import drawn
from medjax.data.medical.conditioning.settings import Settings


@pytest.fixture(scope="session")
def drawn_medpix(tmp_path_factory) -> pathlib.Path:
    """Eight cases; not to be written to."""
    folder = tmp_path_factory.mktemp("drawn") / "medpix2"
    drawn.write(folder, cases=8, seed=1)
    return folder


@dataclasses.dataclass(frozen=True)
class Built:
    """A built dataset, and what it was built from."""

    folder: pathlib.Path
    data_dir: pathlib.Path
    settings: Settings
    builder: Any


@pytest.fixture(scope="session")
def built_medpix(drawn_medpix, tmp_path_factory) -> Built:
    """`drawn_medpix`, built, though its parts share captions; not to be written to."""
    from medjax.data.medical import build, catalogue

    settings = Settings(leaks="warn", templates=True)
    data_dir = tmp_path_factory.mktemp("built")
    builder = build.built(catalogue.dataset("medpix2"), drawn_medpix, data_dir, settings)
    return Built(drawn_medpix, data_dir, settings, builder)
