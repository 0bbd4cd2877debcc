"""Builds TFDS datasets where they are lacking: once, whole or not at all, without noise."""

import contextlib
import fcntl
import io
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core import writer
from tensorflow_datasets.proto import tf_example_pb2

from medjax.errors import UserError

_log = logging.getLogger(__name__)


class SameBytes(writer.ExampleWriter):
    """Writes records that are the same bytes in every process.

    Protobuf leaves the order of a record's fields open: it differs from process to process. A
    builder's `_example_writer` returns one of these.
    """

    def write(self, path: Any, examples: Iterable[tuple[Any, bytes]]) -> Any:
        """See `tfds.core.writer.ExampleWriter.write`."""
        return super().write(path, ((key, _ordered(record)) for key, record in examples))


def _ordered(record: bytes) -> bytes:
    return tf_example_pb2.Example.FromString(record).SerializeToString(deterministic=True)


def built(
    make: Callable[[], tfds.core.DatasetBuilder],
    data_dir: Path,
    *,
    folder: Path | None = None,
    unit: str = "images",
) -> tfds.core.DatasetBuilder:
    """A builder whose data are there.

    Args:
      make: makes the builder, with `data_dir`; asked again after it was built.
      data_dir: where datasets are kept.
      folder: of the files that its owners gave out (TFDS's manual_dir); None where it needs none.
      unit: what records are, for messages.

    Raises:
      UserError: nothing can be written there, or what the builder raises.
    """
    builder = make()
    final = Path(builder.data_path)
    if final.exists():
        return builder
    with locked(data_dir / f".{builder.name}.lock", builder.name):
        # Another process may have built it while this one waited.
        if not final.exists():
            _build(builder, final, folder, unit)
    return make()


def _build(builder: tfds.core.DatasetBuilder, final: Path, folder: Path | None, unit: str) -> None:
    """Builds into a temporary folder that TFDS renames when everything is in it."""
    for leftover in final.parent.glob("incomplete.*"):
        # Of a build that was killed; the lock says that none is going on.
        shutil.rmtree(leftover)
    _log.info("Building the dataset %s in %s (once).", builder.name, final)
    # TFDS announces a download on standard output, which belongs to the commands.
    tfds.display_progress_bar(False)
    try:
        with tempfile.TemporaryDirectory() as downloads, contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(
                download_dir=downloads,
                download_config=tfds.download.DownloadConfig(manual_dir=folder),
            )
    finally:
        tfds.display_progress_bar(True)
    sizes = [f"{info.num_examples} {split}" for split, info in builder.info.splits.items()]
    _log.info("Built %s: %s %s.", builder.name, ", ".join(sizes), unit)


@contextlib.contextmanager
def locked(path: Path, name: str) -> Iterator[None]:
    """Holds a lock on a file, which the system frees even if this process is killed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise UserError(
            f"{name} can't be built in {path.parent} ({error.strerror}): "
            "give a data_dir that can be written to."
        ) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
