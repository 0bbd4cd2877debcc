"""The images in a folder of DICOM files, as slices in the order in which they lie in the body."""

import dataclasses
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from medjax.data.dicom import import_pydicom
from medjax.data.faults import BadExample, FaultCounter
from medjax.errors import UserError

_log = logging.getLogger(__name__)

_PROGRESS_FROM = 500  # files
_MAGIC_AT, _MAGIC = 128, b"DICM"
_DICOM_NAMES = (".dcm", ".dicom", ".ima")
# Have rows and columns, but are no images of a patient: segmentations, doses, presentation states.
_NO_IMAGES = ("SEG", "RTDOSE", "RTSTRUCT", "RTPLAN", "PR", "KO", "SR", "REG", "FID")
_TAGS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID",
    "IssuerOfPatientID", "PatientSex", "PatientAge", "Modality", "BodyPartExamined",
    "BurnedInAnnotation", "InstanceNumber", "ImageOrientationPatient", "ImagePositionPatient",
    "NumberOfFrames", "Rows", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Rows")
_OBLIQUE_BELOW = 0.9  # cosine of the angle to the nearest axis, 26 degrees
_MANY = 30  # slices of a series, of which three are taken

Vector = tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Slice:
    """A frame of a DICOM file.

    Attributes:
      path: of the file.
      frame: from 0; None if it is the file's only one.
      header: its elements, but for the pixels.
      orientation: of rows and columns, six direction cosines towards the patient's left, back and
        head (PS3.3 C.7.6.2.1.1); empty where the file has none.
      position: of the upper left pixel, in mm; empty where the file has none.
    """

    path: Path
    frame: int | None
    header: Any
    orientation: Vector
    position: Vector

    def text(self, keyword: str) -> str:
        """An element's value as a text; "" if there is none."""
        value = self.header.get(keyword)
        return "" if value is None else str(value).strip()

    @property
    def plane(self) -> str:
        """ "axial", "coronal", "sagittal", "oblique", or "" if that is not known."""
        if not self.orientation:
            return ""
        along = np.abs(_normal(self.orientation))
        if along.max() < _OBLIQUE_BELOW:
            return "oblique"
        return ("sagittal", "coronal", "axial")[int(along.argmax())]


def find_series(folder: Path, counter: FaultCounter) -> list[list[Slice]]:
    """The series of a folder and of those in it, in the order of their first files' paths.

    Files may have any names. DICOMDIR, files that are not DICOM, DICOM files without an image, and
    second copies of an image are passed over.

    Args:
      folder: where to look.
      counter: told of files that begin like DICOM, or are called so (.dcm), and can't be read.

    Returns:
      The slices of each series: by their positions along the normal of their plane where all have
      one plane, else by their instance numbers.

    Raises:
      UserError: pydicom is not installed.
    """
    series: dict[str, list[Slice]] = {}
    seen: set[tuple[str, int | None]] = set()
    others = 0
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in tqdm(
        paths, desc="Reading DICOM headers", file=sys.stderr, disable=len(paths) < _PROGRESS_FROM
    ):
        try:
            slices = _slices(path)
        except BadExample as fault:
            counter.add(fault)
            continue
        others += not slices
        for part in slices:
            if (name := (part.text("SOPInstanceUID"), part.frame)) in seen:
                continue
            seen.add(name)
            series.setdefault(part.text("SeriesInstanceUID"), []).append(part)
    if others:
        _log.info("%s: passed over %d files that are no DICOM images.", folder, others)
    return [_in_order(slices) for slices in series.values()]


def representative(slices: Sequence[Slice]) -> list[int]:
    """Which slices stand for a series: the middle one, of many also those at the quarters."""
    count = len(slices)
    return [count // 4, count // 2, 3 * count // 4] if count >= _MANY else [count // 2]


def _slices(path: Path) -> list[Slice]:
    """The frames of a file; none if it is no DICOM image."""
    if path.name.upper() == "DICOMDIR":
        return []
    try:
        with path.open("rb") as file:
            file.seek(_MAGIC_AT)
            is_dicom = file.read(4) == _MAGIC
        if not is_dicom:
            if path.name.lower().endswith(_DICOM_NAMES):
                raise BadExample("unreadable image", f"{path} is not DICOM.")
            return []
        header = import_pydicom().dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
        kind = header.get("SOPClassUID")
        if kind and "Rows" not in header and "Image Storage" not in kind.name:
            return []  # a report, a plan, ...
        if str(header.get("Modality")) in _NO_IMAGES:
            return []
        # Where a file was cut off, elements are missing from some tag on.
        for keyword in _NEEDED:
            if not header.get(keyword):
                raise BadExample("missing element", f"{path} has no {keyword}.")
        return list(_frames(path, header))
    except UserError:
        raise
    # Broken files make pydicom raise nearly anything; none of it is lost, all of it is named.
    except Exception as error:
        message = f"{path} can't be read ({type(error).__name__}: {error})."
        raise BadExample("unreadable image", message) from error


def _frames(path: Path, header: Any) -> Iterator[Slice]:
    frames = int(header.get("NumberOfFrames") or 1)
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = header.get("SharedFunctionalGroupsSequence") or []
    for frame in range(frames):
        # PS3.3 C.7.6.16: what is said of a frame, else of all, else (not enhanced) of the file.
        places = [header, *shared[:1], *per_frame[frame : frame + 1]]
        orientation: Vector = ()
        position: Vector = ()
        for place in places:
            of_plane = (place.get("PlaneOrientationSequence") or [place])[0]
            of_slice = (place.get("PlanePositionSequence") or [place])[0]
            orientation = _vector(of_plane.get("ImageOrientationPatient"), 6) or orientation
            position = _vector(of_slice.get("ImagePositionPatient"), 3) or position
        yield Slice(path, frame if frames > 1 else None, header, orientation, position)


def _vector(value: Any, length: int) -> Vector:
    """Finite numbers, or none."""
    if not value or len(value) != length:
        return ()
    numbers = tuple(float(v) for v in value)
    return numbers if np.isfinite(numbers).all() else ()


def _normal(orientation: Vector) -> np.ndarray:
    """Unit vector from foot to head, front to back, or right to left, up to its sign."""
    normal = np.cross(orientation[:3], orientation[3:])
    return normal / max(float(np.linalg.norm(normal)), 1e-12)


def _in_order(slices: list[Slice]) -> list[Slice]:
    def number(part: Slice) -> tuple[int, int, str]:
        text = part.text("InstanceNumber")
        return (int(text) if text.lstrip("-").isdigit() else 0, part.frame or 0, str(part.path))

    slices = sorted(slices, key=number)
    first = slices[0].orientation
    parallel = first and all(
        part.position and part.orientation and np.allclose(part.orientation, first, atol=0.01)
        for part in slices
    )
    if not parallel:
        return slices
    normal = _normal(first)
    # Sorting keeps the order of images at one position: times, echoes.
    return sorted(slices, key=lambda part: round(float(normal @ np.array(part.position)), 3))
