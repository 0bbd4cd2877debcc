"""Files of labels, a class for each pixel: indexed or grey images, and slices of NIfTI volumes."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from medjax.data.faults import BadExample
from medjax.data.image_files import ImageFile, is_nifti, seek_frame, slice_wanted

_LOSSY = ("JPEG", "JPEG2000", "WEBP", "MPO", "AVIF")


def read_labels(file: ImageFile) -> UInt8[np.ndarray, "height width"]:
    """Reads labels as their image is displayed, one class a pixel, never interpolated.

    Of an indexed image the indices are the classes, of a grey one its values; an image of one bit
    has classes 0 and 1. A window is of the row's image and does not matter here.

    Raises:
      BadExample: the file is missing or unreadable, has no such part, or is not of whole numbers
        from 0 to 255.
    """
    if not file.path.is_file():
        raise BadExample("missing labels", f"The labels {file.path} do not exist.")
    try:
        values = _read_nifti(file) if is_nifti(file.path) else _read_with_pillow(file)
    except BadExample:
        raise
    # A broken file makes decoders raise nearly anything; none of it is lost, all of it is named.
    except Exception as error:
        raise BadExample(
            "unreadable labels",
            f"The labels {file.path} can't be read ({type(error).__name__}: {error}).",
        ) from error
    with np.errstate(invalid="ignore"):
        labels = values.astype(np.uint8)
    if not np.array_equal(labels, values):
        raise BadExample(
            "unreadable labels",
            f"The labels {file.path} hold {values.dtype} values from {values.min()} to "
            f"{values.max()}; classes are whole numbers from 0 to 255.",
        )
    return labels


def _read_nifti(file: ImageFile) -> np.ndarray:
    # nibabel is slow to import and seldom needed.
    from medjax.data.volumes import nifti_slice

    return nifti_slice(file.path, *slice_wanted(file))


def _read_with_pillow(file: ImageFile) -> np.ndarray:
    with Image.open(file.path) as image:
        if getattr(image, "n_frames", 1) > 1:  # else the frame is that of the row's image
            seek_frame(image, file)
        if image.format in _LOSSY or image.mode not in ("1", "L", "P", "I", "I;16", "I;16B"):
            raise BadExample(
                "unreadable labels",
                f"The labels {file.path} are a {image.format} of mode {image.mode}: save them as "
                "an indexed or grey PNG whose values are the classes.",
            )
        return np.asarray(ImageOps.exif_transpose(image))
