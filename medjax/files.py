"""Files and folders that appear whole or not at all.

What is written lies in a hidden folder beside its target until it is done. A process that is killed
leaves that folder behind; the next that writes to the same target removes it. A lock, which the
system lets go of when a process ends, tells such a folder from that of a process still writing.
"""

import contextlib
import fcntl
import glob
import os
import pathlib
import shutil
import tempfile

_LOCK = ".medjax-lock"


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes `data` to `path`, so that no reader ever sees half of it."""
    path = pathlib.Path(path)
    with Temporary(path) as folder:
        (folder / path.name).write_bytes(data)
        os.replace(folder / path.name, path)


class Temporary:
    """A hidden folder beside `path`, on the same file system; deleted at the end of a `with`."""

    def __init__(self, path: pathlib.Path):
        """Creates it, with the folders above it.

        Raises:
          OSError: it cannot be created.
        """
        parent, prefix = path.absolute().parent, f".{path.name}."
        parent.mkdir(parents=True, exist_ok=True)
        for left in parent.glob(f"{glob.escape(prefix)}*/{_LOCK}"):
            _remove_unlocked(left)
        while True:
            self._folder = pathlib.Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
            self._lock = (self._folder / _LOCK).open("w")
            with contextlib.suppress(OSError):  # some file systems have no locks
                fcntl.flock(self._lock, fcntl.LOCK_EX)
            if (self._folder / _LOCK).exists():
                break
            self._lock.close()  # another process took it for one that was left behind

    def __enter__(self) -> pathlib.Path:
        return self._folder

    def __exit__(self, *unused) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.close()


def _remove_unlocked(lock: pathlib.Path) -> None:
    # Errors say that another process has the lock, that there are no locks, or that all is gone.
    with contextlib.suppress(OSError), lock.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(lock.parent, ignore_errors=True)
