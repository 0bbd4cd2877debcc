"""DICOM images as they are displayed: stored values to 256 greys, or to RGB.

Follows DICOM PS3.3: modality LUT or rescale (C.11.1), VOI LUT or window (C.11.2), MONOCHROME1
shown inverted (C.7.6.3.1.2), and the functional groups of enhanced multi-frame images (C.7.6.16).
pydicom (the extra `medical`) decodes the files.
"""

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float64, Num, UInt8

from medjax.data.faults import BadExample
from medjax.data.windowing import full_range, to_uint8
from medjax.errors import UserError


def read_dicom(
    path: Path,
    frame: int | None = None,
    window: tuple[float, float] | None = None,
    content: BinaryIO | None = None,
) -> UInt8[np.ndarray, "height width *rgb"]:
    """Reads one frame as it is displayed.

    Args:
      path: a DICOM file with pixel data, compressed or not.
      frame: from 0; needed where the file holds several.
      window: the values shown as black and white, in the modality's units (Hounsfield units for
        CT). Where there is none, the file's first VOI LUT or window; where the file has none
        either, the smallest and largest value of the frame.
      content: of the file, where that is not read from `path`.

    Returns:
      [height, width] for grey images, [height, width, 3] for coloured ones.

    Raises:
      UserError: pydicom is not installed.
      BadExample: the file holds no image, or no such frame.
    """
    pydicom = import_pydicom()
    dataset = pydicom.dcmread(content or path)
    if "Rows" not in dataset:
        raise BadExample("unreadable image", f"{path} is a DICOM file without an image.")
    frame = _pick_frame(path, int(dataset.get("NumberOfFrames") or 1), frame)
    pixels = pydicom.pixels.pixel_array(dataset, index=frame)
    photometric = dataset.PhotometricInterpretation
    if photometric == "PALETTE COLOR":
        pixels = pydicom.pixels.apply_color_lut(pixels, dataset)
        bits = dataset.RedPaletteColorLookupTableDescriptor[2]
        return to_uint8(pixels, (0, 2**bits - 1))
    if dataset.SamplesPerPixel == 3:  # pydicom has made RGB of any YBR
        return to_uint8(pixels, (0, 2**dataset.BitsStored - 1))
    values = _modality_values(pydicom, dataset, frame, pixels)
    shown = _windowed(pydicom, dataset, frame, values, window)
    return 255 - shown if photometric == "MONOCHROME1" else shown


def import_pydicom() -> Any:
    """The package pydicom.

    Raises:
      UserError: it is not installed.
    """
    try:
        import pydicom
        import pydicom.pixels
    except ImportError as error:
        raise UserError(
            "Reading DICOM files needs pydicom: pip install -e '.[medical]'."
        ) from error
    return pydicom


def _pick_frame(path: Path, frames: int, frame: int | None) -> int:
    if frame is None:
        if frames > 1:
            raise BadExample(
                "no such frame",
                f'{path} holds {frames} frames: say which with "frame": 0 to {frames - 1}.',
            )
        return 0
    if not 0 <= frame < frames:
        raise BadExample("no such frame", f"{path} has frames 0 to {frames - 1}, none {frame}.")
    return frame


def _modality_values(
    pydicom: Any, dataset: Any, frame: int, pixels: Num[np.ndarray, "height width"]
) -> Float64[np.ndarray, "height width"]:
    """Stored values in the modality's units."""
    if dataset.get("ModalityLUTSequence"):
        return pydicom.pixels.apply_modality_lut(pixels, dataset).astype(np.float64)
    group = _group(dataset, frame, "PixelValueTransformationSequence")
    slope = group.get("RescaleSlope", 1)
    intercept = group.get("RescaleIntercept", 0)
    return pixels * float(1 if slope is None else slope) + float(intercept or 0)


def _windowed(
    pydicom: Any,
    dataset: Any,
    frame: int,
    values: Float64[np.ndarray, "height width"],
    window: tuple[float, float] | None,
) -> UInt8[np.ndarray, "height width"]:
    """The greys that a viewer shows first."""
    if window:
        return to_uint8(values, window)
    if dataset.get("VOILUTSequence"):
        bits = dataset.VOILUTSequence[0].LUTDescriptor[2]
        looked_up = pydicom.pixels.apply_voi(np.rint(values).astype(np.int32), dataset)
        return to_uint8(looked_up, (0, 2**bits - 1))
    group = _group(dataset, frame, "FrameVOILUTSequence")
    center, width = _first(group.get("WindowCenter")), _first(group.get("WindowWidth"))
    if center is None or width is None:
        return to_uint8(values, full_range(values))
    function = group.get("VOILUTFunction") or "LINEAR"
    if function == "SIGMOID":
        return to_uint8(1 / (1 + np.exp(-4 * (values - center) / width)), (0.0, 1.0))
    if function == "LINEAR":  # C.11.2.1.2.1: the window's ends are pixel values, half a step in
        center, width = center - 0.5, width - 1
    return to_uint8(values, (center - width / 2, center + width / 2))


def _group(dataset: Any, frame: int, sequence: str) -> Any:
    """The frame's functional group of this name, or the group shared by all, or the file itself."""
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for groups in (*per_frame[frame : frame + 1], *shared[:1]):
        if groups.get(sequence):
            return groups.get(sequence)[0]
    return dataset


def _first(value: Any) -> float | None:
    """The first of possibly several values."""
    if value is None or value == "":
        return None
    try:
        return float(value)
    except TypeError:  # a multi-value, such as the windows of lung and bone
        return float(value[0]) if len(value) else None
