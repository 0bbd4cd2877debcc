"""Volumes (NIfTI) and the 2-D slices that a radiologist would be shown of them.

Volumes are held in RAS order: the first axis runs to the patient's right, the second to the front,
the third to the top (https://nipy.org/nibabel/coordinate_systems.html). Slices are displayed in the
radiological convention: front or top up, the patient's right on the image's left, and sagittal
slices facing left.
"""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from jaxtyping import Shaped

# The volume's axis that a plane is perpendicular to.
PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}


def load_ras(path: str | Path) -> Any:
    """Opens a NIfTI file as a nibabel image whose axes run right, front, top.

    Axes are swapped and reversed, nothing is resampled: an oblique volume keeps its own planes.

    Raises:
      OSError, nibabel.filebasedimages.ImageFileError: the file can't be read as NIfTI.
    """
    return nibabel.as_closest_canonical(nibabel.load(path))


def slice_for_display(
    volume: Shaped[np.ndarray, "right front top"], plane: str, index: int
) -> Shaped[np.ndarray, "height width"]:
    """Cuts one slice out of a RAS volume and turns it as a radiologist expects it.

    Args:
      volume: any dtype, in RAS order.
      plane: "axial", "coronal" or "sagittal".
      index: along the plane's axis, from left, back or bottom.

    Returns:
      A view [height, width]: axial [front to back, right to left], coronal [top to bottom, right to
      left], sagittal [top to bottom, front to back].
    """
    select: list[int | slice] = [slice(None)] * 3
    select[PLANES[plane]] = index
    return np.flip(volume[tuple(select)]).T
