"""Checksums of folders, whose files are read again only after one of them was touched."""

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from medjax import cache
from medjax.errors import UserError
from medjax.files import write_whole

_PROGRESS_FROM = 2**30  # bytes
# A file that changed so shortly ago might change again without looking any newer.
_SETTLED = 2 * 10**9  # nanoseconds


def of_folder(folder: Path) -> str:
    """A checksum of the names and contents of all files in a folder and those within it.

    Hidden files, such as version control's, do not count. What was read is remembered in the user's
    cache, under the files' names, sizes and times, as git does it: with 150,000 files a second call
    takes a second.

    Raises:
      UserError: a file cannot be read.
    """
    files = list(_files(folder))
    state = hashlib.sha256(os.fsencode(folder.absolute()))
    for name, stat in files:
        values = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        state.update(f"{name!r} {values}\n".encode())
    newest = max((max(stat.st_mtime_ns, stat.st_ctime_ns) for _, stat in files), default=0)
    settled = newest < time.time_ns() - _SETTLED
    remembered = cache.folder() / "checksums" / state.hexdigest()
    if settled:
        with contextlib.suppress(OSError):
            return remembered.read_text()
    content = _read(folder, files)
    if settled:
        with contextlib.suppress(OSError):  # then they are read again next time
            write_whole(remembered, content.encode())
    return content


def _read(folder: Path, files: list[tuple[str, os.stat_result]]) -> str:
    total = sum(stat.st_size for _, stat in files)
    digest = hashlib.sha256()
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(
            total=total, desc=f"checksum of {folder.name}", unit="B", unit_scale=True,
            disable=total < _PROGRESS_FROM,
        ) as bar,
    ):  # fmt: skip
        # In portions: checksums that nobody has taken yet would fill the memory.
        for start in range(0, len(files), 1024):
            portion = files[start : start + 1024]
            found = pool.map(_of_file, (folder / name for name, _ in portion))
            for (name, stat), of_file in zip(portion, found, strict=True):
                digest.update(f"{name!r} {of_file}\n".encode())
                bar.update(stat.st_size)
    return digest.hexdigest()


def _of_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}).") from error


def _files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every file's path from the folder on, in an order of its own."""
    known = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        here = os.stat(parent)
        if (here.st_dev, here.st_ino) in known:  # a link to a folder that it is in
            folders.clear()
            continue
        known.add((here.st_dev, here.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        within = os.path.relpath(parent, folder)
        for name in sorted(names):
            if not name.startswith("."):
                path = os.path.normpath(os.path.join(within, name))
                with contextlib.suppress(FileNotFoundError):  # a link to nowhere
                    yield path, os.stat(os.path.join(folder, path))
