"""The MRI behind `mni152_vqa`: the ICBM152 template that the nilearn package carries."""

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from medjax.data.volumes import load_ras
from medjax.errors import UserError

_FILE = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"

# A voxel belongs to a tissue whose map says more than one half, the maps' 255 being 1.
_HALF = 255 / 2
# Of the T1's 0 to 255; the skull is stripped, so whatever is brighter is brain or fluid around it.
_BACKGROUND = 255 / 10

# The template is left-right symmetric about this index of its first axis (x = 0 mm).
MIDLINE = 98
VOXEL_MM = 1.0


@dataclasses.dataclass(frozen=True)
class Template:
    """The template's maps in RAS order, 1 mm voxels, all of one shape [right, front, top].

    Attributes:
      t1: the T1-weighted image, 0 to 255, skull stripped.
      tissue: where the head's tissue is (T1 above a tenth of its range).
      grey: voxels that are grey matter with a probability above one half.
      white: the same of white matter.
      brain: voxels that are either with a probability above one half.
      labels: 1 where grey, 2 where white, else 0.
    """

    t1: UInt8[np.ndarray, "right front top"]
    tissue: Bool[np.ndarray, "right front top"]
    grey: Bool[np.ndarray, "right front top"]
    white: Bool[np.ndarray, "right front top"]
    brain: Bool[np.ndarray, "right front top"]
    labels: UInt8[np.ndarray, "right front top"]


def load_template() -> Template:
    """Reads the three maps from the installed nilearn package; nothing is downloaded.

    Raises:
      UserError: nilearn is not installed or has no such files.
    """
    t1, grey, white = (_load(name) for name in ("t1", "gm", "wm"))
    return Template(
        t1=t1,
        tissue=t1 > _BACKGROUND,
        grey=grey > _HALF,
        white=white > _HALF,
        brain=grey.astype(np.uint16) + white > _HALF,
        labels=np.where(white > _HALF, 2, grey > _HALF).astype(np.uint8),
    )


def _load(name: str) -> UInt8[np.ndarray, "right front top"]:
    # The package's place is looked up without importing it, which would take seconds.
    spec = importlib.util.find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise UserError("mni152_vqa is made from nilearn's files: pip install 'nilearn>=0.11,<1'.")
    path = Path(spec.origin).parent / "datasets" / "data" / _FILE.format(name)
    if not path.exists():
        raise UserError(f"{path} is missing: reinstall nilearn (nilearn>=0.11,<1).")
    return np.asarray(load_ras(path).dataobj, dtype=np.uint8)
