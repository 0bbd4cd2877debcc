"""The records of `mni152_vqa`: built on first use, then read from files without TensorFlow."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from PIL import Image

from medjax.data.datasets.building import built
from medjax.data.datasets.mni152_vqa.builder import Mni152Vqa
from medjax.data.datasets.mni152_vqa.slabs import SPLITS
from medjax.errors import UserError


class Pngs:
    """PNG files by number, decoded when first asked for and then kept."""

    def __init__(self):
        self._files: list[bytes] = []
        self._decoded: dict[int, UInt8[np.ndarray, "height width"]] = {}

    def append(self, file: bytes) -> None:
        """Takes one more file."""
        self._files.append(file)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: int) -> UInt8[np.ndarray, "height width"]:
        if number not in self._decoded:
            self._decoded[number] = np.asarray(Image.open(io.BytesIO(self._files[number])))
        return self._decoded[number]

    def __getstate__(self) -> dict:
        # Another process decodes for itself.
        return self.__dict__ | {"_decoded": {}}


def records(data_dir: str | Path, split: str) -> Sequence[Mapping]:
    """The records of a split, their pictures still PNG files; built if `data_dir` lacks them.

    Raises:
      UserError: unknown split, or the dataset is to be built where nothing can be written.
    """
    if split not in SPLITS:
        raise UserError(f"mni152_vqa has no split {split!r}: name one of {', '.join(SPLITS)}.")
    data_dir = Path(data_dir).expanduser()
    builder = built(
        lambda: Mni152Vqa(data_dir=data_dir, file_format="array_record"), data_dir, unit="slices"
    )
    pictures = ("image", "labels")
    return builder.as_data_source(
        split, decoders={name: tfds.decode.SkipDecoding() for name in pictures}
    )
