"""What every medical dataset is read into: images with questions, and what is known of them."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow.parquet
from jaxtyping import UInt8

from medjax.data.faults import BadExample
from medjax.data.image_files import ImageFile, read_bytes, read_image

SPLITS = ("train", "validation", "test")
# Facts that a result is broken down by, and that a page shows; the others are long texts.
SHORT_FACTS = (
    "type", "modality", "plane", "location", "location_category", "sex", "age", "diagnosis",
    "category", "acr_code", "synpic", "cuis", "title", "licence", "seen",
)  # fmt: skip
LONG_FACTS = (
    "caption", "history", "findings", "differential", "exam", "treatment", "discussion",
    "disease_discussion", "keywords", "diagnosis_by",
)  # fmt: skip

# Rectangle of pixels, y1, x1, y2, x2, the ends not included.
Pixels = tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class Question:
    """One question about an image.

    Attributes:
      id: unique within its dataset.
      task: what it is counted under: "caption", "modality", "diagnosis", "closed", ...
      question: as a person asks it; of a caption empty.
      answer: the true one, as a text.
      form: how it is put to a model: "answer", "caption" or "detect", see `source.prefix_of`.
      language: of question and answer, ISO 639-1.
      mode: "pre_training" (what an image shows), "alignment" (what a clinic asks), or "".
      origin: who made it: "dataset", "template", "table", or the name of a language model.
      facts: what else the dataset says of it: question_type, answer_type, choices, ...
    """

    id: str
    task: str
    question: str
    answer: str
    form: str = "answer"
    language: str = "en"
    mode: str = ""
    origin: str = "dataset"
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Image(Protocol):
    """An image that has not been read yet."""

    @property
    def key(self) -> str:
        """Names the image, for messages and pages: a path, and a part of it."""
        ...

    def read(self) -> bytes:
        """The file's bytes, as they are.

        Raises:
          BadExample: it is missing.
        """
        ...

    def pixels(self) -> UInt8[np.ndarray, "height width 3"]:
        """RGB, as displayed.

        Raises:
          BadExample: it is missing or damaged.
        """
        ...


@dataclasses.dataclass(frozen=True)
class FileImage:
    """An image in a file of its own, or a part of a file (a DICOM's frame)."""

    file: ImageFile

    @classmethod
    def at(cls, path: Path, **part: Any) -> "FileImage":
        """The image of a file; `part` as in `ImageFile`."""
        return cls(ImageFile(path, **part))

    @property
    def key(self) -> str:
        return self.file.key

    def read(self) -> bytes:
        """See `Image.read`."""
        try:
            return self.file.path.read_bytes()
        except OSError as error:
            raise BadExample(
                "missing image", f"The image {self.file.path} can't be read ({error.strerror})."
            ) from error

    def pixels(self) -> UInt8[np.ndarray, "height width 3"]:
        """See `Image.pixels`."""
        return read_image(self.file)


@dataclasses.dataclass(frozen=True)
class ParquetImage:
    """An image in a row of a parquet file, as Hugging Face datasets have it: {bytes, path}."""

    path: Path
    row_group: int
    row: int  # within its group
    column: str = "image"

    @property
    def key(self) -> str:
        return f"{self.path}#{self.row_group}.{self.row}"

    def read(self) -> bytes:
        """See `Image.read`."""
        value = _images_of(self.path, self.row_group, self.column)[self.row].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes) or not data:
            raise BadExample("missing image", f"{self.key} holds no image.")
        return data

    def pixels(self) -> UInt8[np.ndarray, "height width 3"]:
        """See `Image.pixels`."""
        return read_bytes(self.read(), ImageFile(Path(self.key)))


@functools.lru_cache(maxsize=2)  # rows are read in their order
def _images_of(path: Path, row_group: int, column: str) -> Any:
    return pyarrow.parquet.ParquetFile(path).read_row_group(row_group, [column])[column]


@dataclasses.dataclass(frozen=True)
class Record:
    """An image with its questions.

    Attributes:
      id: of the image, unique within its dataset.
      image: its file.
      patient: what a split must keep together: the patient, or the case if that is all that is
        known; "" where the dataset does not say.
      split: as published: one of `SPLITS`, or "".
      questions: in the dataset's order.
      facts: what is known of image and case; keys are `SHORT_FACTS` and `LONG_FACTS`, those that
        are not known are absent.
      hidden: rectangles that are made black when the image is read (names burned into it).
      crop: the rectangle that is kept; None for all.
      hashes: what the image looks like, see `conditioning.hashes`; "" until that is computed.
      where: it was read, for messages: file and record.
      mask: an image of the same size whose values are classes, where the dataset has one.
    """

    id: str
    image: Image
    patient: str = ""
    split: str = ""
    questions: tuple[Question, ...] = ()
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    hidden: tuple[Pixels, ...] = ()
    crop: Pixels | None = None
    hashes: str = ""
    where: str = ""
    mask: Image | None = None


def shown(
    pixels: UInt8[np.ndarray, "height width 3"], hidden: tuple[Pixels, ...], crop: Pixels | None
) -> UInt8[np.ndarray, "h w 3"]:
    """What a model sees of an image."""
    if hidden:
        pixels = pixels.copy()
        for y1, x1, y2, x2 in hidden:
            pixels[y1:y2, x1:x2] = 0
    if crop is not None:
        y1, x1, y2, x2 = crop
        pixels = pixels[y1:y2, x1:x2]
    return pixels
