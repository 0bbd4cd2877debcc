"""What a built dataset may know of a DICOM file: its pixels, and nothing that says whose they are.

The Basic Application Level Confidentiality Profile (DICOM PS3.15, annex E) lists what must be
removed from a file; new and private elements are in no list. So this module goes the other way:
whatever is not in `KEPT`, the elements without which the image can't be displayed, is left out,
names, numbers, dates, descriptions, overlays and private elements alike. The encoded pixels are
copied byte for byte. What is burned into them stays in them.
"""

import dataclasses
import hashlib
import hmac
import io
import secrets
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from medjax.data.dicom import import_pydicom
from medjax.data.faults import BadExample
from medjax.data.image_files import ImageFile, read_bytes
from medjax.errors import UserError
from medjax.files import write_whole

KEY_FILE = "medjax_pseudonyms.key"
_MIN_KEY_BYTES = 16

_LUT = ("LUTDescriptor", "LUTData")
_FRAME = (
    "PixelValueTransformationSequence", "RescaleIntercept", "RescaleSlope",
    "FrameVOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction",
)  # fmt: skip
# The elements of a copy, also within sequences, by DICOM's keywords: none is a free text, a name,
# a date or a number that a person or an institution gave.
KEPT = frozenset((
    "SOPClassUID", "Modality", "SamplesPerPixel", "PhotometricInterpretation",
    "PlanarConfiguration", "Rows", "Columns", "PixelSpacing", "PixelAspectRatio", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "BurnedInAnnotation",
    "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
    "ModalityLUTSequence", "VOILUTSequence", *_LUT, *_FRAME,
    *(f"{color}PaletteColorLookupTable{what}" for color in ("Red", "Green", "Blue")
      for what in ("Descriptor", "Data")),
    *(f"Segmented{color}PaletteColorLookupTableData" for color in ("Red", "Green", "Blue")),
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
))  # fmt: skip


class Pseudonyms:
    """Names that tell patients and images apart, and say nothing to who lacks the key.

    A hash alone would not do: the numbers of a hospital's patients are few enough to try them all.
    The key lies with the files whose identities it guards and goes into nothing that is built, so
    building twice from a folder gives the same names, and no others can be traced back.
    """

    def __init__(self, folder: Path):
        """Reads the key of a folder, or makes one at the first use.

        Raises:
          UserError: the key can't be read or written, or is too short.
        """
        path = folder / KEY_FILE
        try:
            if not path.exists():
                # Whole, or not at all; for its owner alone.
                write_whole(path, f"{secrets.token_hex(32)}\n".encode())
                path.chmod(0o600)
            self._key = path.read_bytes().strip()
        except OSError as error:
            raise UserError(
                f"The key of patients' pseudonyms, {path}, can't be read or made "
                f"({error.strerror}): make it, a file of at least {_MIN_KEY_BYTES} random bytes."
            ) from error
        if len(self._key) < _MIN_KEY_BYTES:
            raise UserError(
                f"{path} is too short for a key: it needs {_MIN_KEY_BYTES} random bytes. Delete it "
                "for a new one; all pseudonyms change with it."
            )

    def of(self, kind: str, *names: str) -> str:
        """16 hexadecimal digits for the names of a patient, study or image (HMAC-SHA-256)."""
        message = "\0".join((kind, *names)).encode()
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class DicomImage:
    """A frame of a DICOM file, of which nobody is told where it lies: paths hold names, too.

    Attributes:
      path: of the file.
      frame: from 0; None if it is the file's only one.
      name: its pseudonym.
    """

    path: Path = dataclasses.field(repr=False)
    frame: int | None
    name: str

    @property
    def key(self) -> str:
        """See `record.Image.key`."""
        return f"dicom-{self.name}"

    def read(self) -> bytes:
        """A DICOM file of this frame alone, see `without_identity`."""
        return without_identity(self.path, self.frame, self.name)

    def pixels(self) -> UInt8[np.ndarray, "height width 3"]:
        """See `record.Image.pixels`."""
        return read_bytes(self.read(), ImageFile(self.path))


def without_identity(path: Path, frame: int | None, name: str) -> bytes:
    """A copy of a frame of a DICOM file with `KEPT` elements and the encoded pixels.

    Args:
      path: of the file.
      frame: from 0; None if the file has one only.
      name: hexadecimal digits, for the copy's SOPInstanceUID.

    Returns:
      The content of a DICOM file with the same transfer syntax and one frame.

    Raises:
      UserError: pydicom is not installed.
      BadExample: the file is missing, damaged, or holds no such frame.
    """
    pydicom = import_pydicom()
    try:
        source = pydicom.dcmread(path)
        copy = _kept(pydicom, source)
        if frame is None:
            copy.add(source["PixelData"])
        else:
            _keep_frame(pydicom, source, copy, frame)
        copy.SOPInstanceUID = f"2.25.{int(name, 16)}"
        copy.file_meta = pydicom.dataset.FileMetaDataset()
        copy.file_meta.TransferSyntaxUID = source.file_meta.TransferSyntaxUID
        copy.file_meta.MediaStorageSOPClassUID = source.SOPClassUID
        copy.file_meta.MediaStorageSOPInstanceUID = copy.SOPInstanceUID
        content = io.BytesIO()
        copy.save_as(content, enforce_file_format=True)
    except FileNotFoundError as error:
        raise BadExample("missing image", f"The image {path} does not exist.") from error
    # Broken files make pydicom raise nearly anything; none of it is lost, all of it is named.
    except Exception as error:
        message = f"The image {path} can't be read ({type(error).__name__}: {error})."
        raise BadExample("unreadable image", message) from error
    return content.getvalue()


def _kept(pydicom: Any, dataset: Any) -> Any:
    """The elements that are kept, in sequences, too."""
    copy = pydicom.Dataset()
    for tag in list(dataset.keys()):
        if pydicom.datadict.keyword_for_tag(tag) not in KEPT:
            continue
        element = dataset[tag]
        if element.VR == "SQ":
            items = [_kept(pydicom, item) for item in element.value]
            element = pydicom.DataElement(tag, "SQ", pydicom.Sequence(items))
        copy.add(element)
    return copy


def _keep_frame(pydicom: Any, source: Any, copy: Any, frame: int) -> None:
    """Puts one of several frames into the copy, and what is said of this frame."""
    frames = int(source.NumberOfFrames)
    if copy.get("PerFrameFunctionalGroupsSequence"):
        groups = copy.PerFrameFunctionalGroupsSequence[frame : frame + 1]
        copy.PerFrameFunctionalGroupsSequence = pydicom.Sequence(groups)
    if source.file_meta.TransferSyntaxUID.is_encapsulated:
        offsets = None
        if "ExtendedOffsetTable" in source:
            offsets = (source.ExtendedOffsetTable, source.ExtendedOffsetTableLengths)
        one = pydicom.encaps.get_frame(
            source.PixelData, frame, number_of_frames=frames, extended_offsets=offsets
        )
        copy.PixelData = pydicom.encaps.encapsulate([one])
        copy["PixelData"].VR = "OB"
        copy["PixelData"].is_undefined_length = True
        return
    size, rest = divmod(pydicom.pixels.utils.get_expected_length(source), frames)
    if rest or source.BitsAllocated < 8:
        raise ValueError("its frames are no whole bytes")
    one = source.PixelData[frame * size : (frame + 1) * size]
    copy.PixelData = one + b"\0" * (len(one) % 2)
    copy["PixelData"].VR = source["PixelData"].VR
