"""Image files of any kind to uint8 RGB: what Pillow reads, DICOM, and slices of NIfTI volumes."""

import dataclasses
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from medjax.data.faults import BadExample
from medjax.data.windowing import full_range, to_uint8
from medjax.errors import UserError

_NIFTI = (".nii", ".nii.gz")
_DICOM = (".dcm", ".dicom", ".ima")
_DICOM_MAGIC_AT = 128


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """An image file, and which part of it is meant.

    Attributes:
      path: of the file.
      frame: of a multi-frame DICOM, TIFF or GIF, or of a NIfTI's fourth axis; from 0.
      plane: of a NIfTI volume: "axial", "coronal" or "sagittal".
      slice: of a NIfTI volume, along the plane's axis, from left, back or bottom; from 0.
      window: the intensities shown as black and white, for images of more than 256 greys.
    """

    path: Path
    frame: int | None = None
    plane: str | None = None
    slice: int | None = None
    window: tuple[float, float] | None = None

    @property
    def key(self) -> str:
        """Equal for equal pixels; differs between different parts of a file."""
        parts = {"frame": self.frame, "plane": self.plane, "slice": self.slice}
        named = [f"{name}={value}" for name, value in parts.items() if value is not None]
        if self.window is not None:
            named.append(f"window={self.window[0]},{self.window[1]}")
        return "#".join([str(self.path), *named])


def image_file(path: Path, row: Mapping[str, Any]) -> ImageFile:
    """Reads from a row of data which part of its image file is meant.

    Args:
      path: of the file, which need not exist.
      row: may hold "frame", "window" ([low, high]) and, needed for NIfTI and otherwise ignored,
        "axis" ("axial", "coronal", "sagittal", or 2, 1, 0) and "slice".

    Raises:
      BadExample: one of these is of the wrong type or lacking.
    """
    frame = _index(row, "frame")
    window = row.get("window")
    if window is not None:
        if not (
            isinstance(window, list)
            and len(window) == 2
            and all(isinstance(end, int | float) for end in window)
            and window[0] < window[1]
        ):
            raise BadExample("wrong type", f'"window" is {window!r}: write it as [low, high].')
        window = (float(window[0]), float(window[1]))
    if not is_nifti(path):
        return ImageFile(path, frame=frame, window=window)
    planes = ("sagittal", "coronal", "axial")
    axis = row.get("axis")
    if axis in planes:
        plane = axis
    elif isinstance(axis, int) and not isinstance(axis, bool) and axis in range(3):
        plane = planes[axis]
    else:
        raise BadExample(
            "wrong type" if "axis" in row else "missing key",
            f'{path.name} is a volume: write "axis": one of {", ".join(planes)}.',
        )
    index = _index(row, "slice")
    if index is None:
        raise BadExample(
            "missing key", f'{path.name} is a volume: write "slice": a number from 0 on.'
        )
    return ImageFile(path, frame=frame, plane=plane, slice=index, window=window)


def is_nifti(path: Path) -> bool:
    """Whether a file is a NIfTI volume, by its name."""
    return path.name.lower().endswith(_NIFTI)


def read_image(file: ImageFile) -> UInt8[np.ndarray, "height width 3"]:
    """Reads an image as it is displayed.

    Of DICOM and NIfTI see `read_dicom` and `read_nifti_slice`. Of everything else: turned as its
    EXIF orientation says; transparent parts are black; 16-bit grey counts from 0 to 65535 unless
    there is a window; 32-bit and floating-point grey from its smallest to its largest value.

    Raises:
      BadExample: the file is missing or unreadable, or has no such part.
      UserError: a package is missing that reads such files.
    """
    if not file.path.is_file():
        raise BadExample("missing image", f"The image {file.path} does not exist.")
    return _displayed(file, lambda: _reader(file.path)(file))


def read_bytes(data: bytes, file: ImageFile) -> UInt8[np.ndarray, "height width 3"]:
    """Reads the content of an image file, but of a NIfTI volume's; the rest as in `read_image`.

    Args:
      data: the content.
      file: which part of it is meant; its path is for messages.
    """
    is_dicom = data[_DICOM_MAGIC_AT : _DICOM_MAGIC_AT + 4] == b"DICM"
    read = _read_dicom if is_dicom else _read_with_pillow
    return _displayed(file, lambda: read(file, io.BytesIO(data)))


def _displayed(
    file: ImageFile, read: Callable[[], np.ndarray]
) -> UInt8[np.ndarray, "height width 3"]:
    """What `read` gives, as RGB."""
    try:
        pixels = read()
    except UserError:
        raise
    # A broken file makes decoders raise nearly anything; none of it is lost, all of it is named.
    except Exception as error:
        raise BadExample(
            "unreadable image",
            f"The image {file.path} can't be read ({type(error).__name__}: {error}).",
        ) from error
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def _reader(path: Path) -> Callable[[ImageFile], np.ndarray]:
    if is_nifti(path):
        return _read_nifti
    if path.name.lower().endswith(_DICOM):
        return _read_dicom
    with path.open("rb") as file:  # DICOM files often have no extension
        file.seek(_DICOM_MAGIC_AT)
        return _read_dicom if file.read(4) == b"DICM" else _read_with_pillow


def _read_nifti(file: ImageFile) -> UInt8[np.ndarray, "height width"]:
    # nibabel is slow to import and seldom needed.
    from medjax.data.volumes import read_nifti_slice

    return read_nifti_slice(file.path, *slice_wanted(file), file.window)


def slice_wanted(file: ImageFile) -> tuple[str, int, int]:
    """Plane, slice and frame of a volume's file.

    Raises:
      BadExample: the file does not say them.
    """
    if file.plane is None or file.slice is None:
        raise BadExample("missing key", f"{file.path} is a volume: a plane and a slice are needed.")
    return file.plane, file.slice, file.frame or 0


def _read_dicom(
    file: ImageFile, content: BinaryIO | None = None
) -> UInt8[np.ndarray, "height width *rgb"]:
    from medjax.data.dicom import read_dicom

    return read_dicom(file.path, file.frame, file.window, content)


def _read_with_pillow(
    file: ImageFile, content: BinaryIO | None = None
) -> UInt8[np.ndarray, "height width *rgb"]:
    with Image.open(content or file.path) as image:
        seek_frame(image, file)
        turned = ImageOps.exif_transpose(image)
        if turned.mode.startswith(("I", "F")):
            values = np.asarray(turned)
            declared = (0.0, 65535.0) if turned.mode.startswith("I;16") else full_range(values)
            return to_uint8(values, file.window or declared)
        if turned.has_transparency_data:
            turned = turned.convert("RGBA")
            black = Image.new("RGBA", turned.size, (0, 0, 0, 255))
            turned = Image.alpha_composite(black, turned)
        rgb = np.asarray(turned.convert("RGB"))
        return to_uint8(rgb, file.window) if file.window else rgb


def seek_frame(image: Image.Image, file: ImageFile) -> None:
    """Goes to the frame that is meant.

    Raises:
      BadExample: there is no such frame.
    """
    if file.frame is None:
        return
    frames = getattr(image, "n_frames", 1)
    if file.frame >= frames:
        raise BadExample(
            "no such frame", f"{file.path} has frames 0 to {frames - 1}, none {file.frame}."
        )
    image.seek(file.frame)


def _index(row: Mapping[str, Any], key: str) -> int | None:
    value = row.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise BadExample("wrong type", f'"{key}" is {value!r}: write a whole number from 0 on.')
    return value
