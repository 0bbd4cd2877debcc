"""`mni152_vqa` as examples: built on first use, then read from its files without TensorFlow."""

import contextlib
import fcntl
import functools
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
from medjax.data.datasets.mni152_vqa.questions import TASKS
from medjax.data.datasets.mni152_vqa.slabs import SPLITS
from medjax.data.example import Example
from medjax.errors import UserError

_log = logging.getLogger(__name__)


class Mni152VqaSource:
    """One example a question, slice by slice.

    `extra` holds task, phrasing, plane, slice, slab and voxel_mm; scores should be resampled over
    slabs. Images are decoded when first asked for and then kept (8 MB for all of train).
    """

    def __init__(self, *, split: str, tasks: Sequence[str] = (), data_dir: str | Path):
        """Opens a split, building the dataset if `data_dir` lacks it.

        Args:
          split: "train", "validation" or "test".
          tasks: those of `TASKS` to keep; all if empty.
          data_dir: where TFDS datasets live.

        Raises:
          UserError: unknown split or task, or the dataset is to be built where nothing can be
            written.
        """
        if split not in SPLITS:
            raise UserError(f"mni152_vqa has no split {split!r}: name one of {', '.join(SPLITS)}.")
        if unknown := sorted(set(tasks) - set(TASKS)):
            raise UserError(
                f"mni152_vqa has no task {', '.join(map(repr, unknown))}: "
                f"name some of {', '.join(TASKS)}."
            )
        wanted = set(tasks or TASKS)
        self.faults: Mapping[str, int] = {}
        self._pngs: list[bytes] = []
        self._decoded: dict[int, UInt8[np.ndarray, "height width"]] = {}
        # For each example: the place of its image, and everything else.
        self._rows: list[tuple[int, dict]] = []
        for record in _records(Path(data_dir), split):
            questions = record["questions"]
            for task, phrasing, prefix, suffix in zip(
                *(questions[key] for key in ("task", "phrasing", "prefix", "suffix")), strict=True
            ):
                if task.decode() in wanted:
                    self._rows.append(
                        (len(self._pngs), _row(record, task, phrasing, prefix, suffix))
                    )
            self._pngs.append(record["image"])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        number, row = self._rows[index]
        return Example(pixels=functools.partial(self._rgb, number), where="mni152_vqa", **row)

    def __getstate__(self) -> dict:
        # Another process decodes for itself.
        return self.__dict__ | {"_decoded": {}}

    def _rgb(self, number: int) -> UInt8[np.ndarray, "height width 3"]:
        return np.repeat(self._image(number)[..., None], 3, axis=2)

    def _image(self, number: int) -> UInt8[np.ndarray, "height width"]:
        if number not in self._decoded:
            self._decoded[number] = np.asarray(Image.open(io.BytesIO(self._pngs[number])))
        return self._decoded[number]


def _row(record: Mapping, task: bytes, phrasing: int, prefix: bytes, suffix: bytes) -> dict:
    """The fields of an Example but for its image."""
    name = record["id"].decode()
    return {
        "id": f"{name}/{task.decode()}/{phrasing}",
        "prefix": prefix.decode(),
        "suffix": suffix.decode(),
        "image_key": f"mni152_vqa/{Mni152Vqa.VERSION}/{name}",
        "extra": {
            "task": task.decode(),
            "phrasing": int(phrasing),
            "plane": record["plane"].decode(),
            "slice": int(record["slice"]),
            "slab": record["slab"].decode(),
            "voxel_mm": float(record["voxel_mm"]),
        },
    }


def _records(data_dir: Path, split: str) -> Sequence[Mapping]:
    """The records of a split, their images still PNG files."""
    data_dir = data_dir.expanduser()
    builder = Mni152Vqa(data_dir=data_dir, file_format="array_record")
    final = Path(builder.data_path)
    if not final.exists():
        with _locked(data_dir / ".mni152_vqa.lock"):
            # Another process may have built it while this one waited.
            if not final.exists():
                _build(builder, final)
        builder = Mni152Vqa(data_dir=data_dir, file_format="array_record")
    return builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})


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
