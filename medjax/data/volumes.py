"""Volumes (NIfTI) and the 2-D slices that a radiologist would be shown of them.

Volumes are held in RAS order: the first axis runs to the patient's right, the second to the front,
the third to the top (https://nipy.org/nibabel/coordinate_systems.html). Slices are displayed in the
radiological convention: front or top up, the patient's right on the image's left, and sagittal
slices facing left.
"""

import functools
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from medjax.data.faults import BadExample
from medjax.data.windowing import to_uint8

# The volume's axis that a plane is perpendicular to.
PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}

# Where no window is asked for: this share of the volume's values is cut off at either end, so that
# a few bright voxels don't leave the rest in the dark.
_CUT_PERCENT = 0.5


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


def read_nifti_slice(
    path: Path, plane: str, index: int, frame: int = 0, window: tuple[float, float] | None = None
) -> UInt8[np.ndarray, "height width"]:
    """Reads one slice as it is displayed, one pixel a voxel.

    Args:
      path: .nii or .nii.gz.
      plane: "axial", "coronal" or "sagittal".
      index: along the plane's axis, from left, back or bottom.
      frame: of a fourth axis, such as time.
      window: the values shown as black and white; where there is none, the volume's 0.5th and
        99.5th percentiles, so that all slices of a volume are equally bright.

    Raises:
      BadExample: the volume has no such slice or frame, or isn't of numbers in three or four
        dimensions.
    """
    values = nifti_slice(path, plane, index, frame)
    return to_uint8(values, window or _load_frame(path, frame)[1])


def nifti_slice(
    path: Path, plane: str, index: int, frame: int = 0
) -> Float32[np.ndarray, "height width"]:
    """As `read_nifti_slice`, but gives the volume's own values."""
    volume, _ = _load_frame(path, frame)
    length = volume.shape[PLANES[plane]]
    if not 0 <= index < length:
        raise BadExample(
            "no such slice", f"{path} has {plane} slices 0 to {length - 1}, none {index}."
        )
    return slice_for_display(volume, plane, index)


# Rows of a file tend to come slice after slice of the same volume.
@functools.lru_cache(maxsize=4)
def _load_frame(
    path: Path, frame: int
) -> tuple[Float32[np.ndarray, "right front top"], tuple[float, float]]:
    image = load_ras(path)
    if len(image.shape) not in (3, 4) or image.get_data_dtype().fields:
        raise BadExample(
            "unreadable image",
            f"{path} has shape {image.shape} and type {image.get_data_dtype()}, where a volume of "
            "numbers in three or four dimensions is needed.",
        )
    frames = image.shape[3] if len(image.shape) == 4 else 1
    if not 0 <= frame < frames:
        raise BadExample("no such frame", f"{path} has frames 0 to {frames - 1}, none {frame}.")
    values = image.dataobj if len(image.shape) == 3 else image.dataobj[..., frame]
    volume = np.asarray(values, dtype=np.float32)
    finite = volume[np.isfinite(volume)]
    if not finite.size:
        raise BadExample("unreadable image", f"{path} holds no finite number.")
    low, high = np.percentile(finite, [_CUT_PERCENT, 100 - _CUT_PERCENT])
    return volume, (float(low), float(high))
