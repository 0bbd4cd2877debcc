"""The records of `mni152_vqa`: built on first use, then read from files without TensorFlow."""

import contextlib
import fcntl
import io
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from PIL import Image

from medjax.data.datasets.mni152_vqa.builder import Mni152Vqa
from medjax.data.datasets.mni152_vqa.slabs import SPLITS
from medjax.errors import UserError

_log = logging.getLogger(__name__)


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
    builder = Mni152Vqa(data_dir=data_dir, file_format="array_record")
    final = Path(builder.data_path)
    if not final.exists():
        with _locked(data_dir / ".mni152_vqa.lock"):
            # Another process may have built it while this one waited.
            if not final.exists():
                _build(builder, final)
        builder = Mni152Vqa(data_dir=data_dir, file_format="array_record")
    pictures = ("image", "labels")
    return builder.as_data_source(
        split, decoders={name: tfds.decode.SkipDecoding() for name in pictures}
    )


def _build(builder: Mni152Vqa, final: Path) -> None:
    """Builds into a temporary folder that TFDS renames when everything is in it."""
    for leftover in final.parent.glob("incomplete.*"):
        # Of a build that was killed; the lock says that none is going on.
        shutil.rmtree(leftover)
    _log.info("Building the dataset mni152_vqa in %s (once, a few seconds).", final)
    # TFDS announces a download on standard output, which belongs to the commands.
    tfds.display_progress_bar(False)
    try:
        with tempfile.TemporaryDirectory() as downloads, contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_dir=downloads)
    finally:
        tfds.display_progress_bar(True)
    sizes = [f"{info.num_examples} {split}" for split, info in builder.info.splits.items()]
    _log.info("Built mni152_vqa: %s slices.", ", ".join(sizes))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock on a file, which the system frees even if this process is killed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise UserError(
            f"mni152_vqa can't be built in {path.parent} ({error.strerror}): "
            "give a data_dir that can be written to."
        ) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
