"""The medical datasets by name. Each is a module of `readers` with a constant `DATASET`."""

import importlib
import typing

if typing.TYPE_CHECKING:
    from medjax.data.medical.dataset import Dataset

NAMES = ("medpix2", "vqa_rad", "slake", "path_vqa", "pmc_vqa", "roco2", "dicom_studies",
         "medpix2_drawn")  # fmt: skip


def dataset(name: str) -> "Dataset":
    """The dataset of a name, one of `NAMES`."""
    # Imported when it is wanted: readers need libraries of their own.
    return importlib.import_module(f"medjax.data.medical.readers.{name}").DATASET
