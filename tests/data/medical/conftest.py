"""A small data set in MedPix 2.0's form, drawn once."""

import pathlib

import pytest

from medjax.data.medical import drawn


@pytest.fixture(scope="session")
def drawn_medpix(tmp_path_factory) -> pathlib.Path:
    """Eight cases; not to be written to."""
    folder = tmp_path_factory.mktemp("drawn") / "medpix2"
    drawn.write(folder, cases=8, seed=1)
    return folder
