"""Hashes of weights, remembered in the user's cache for as long as the files stay as they are."""

import contextlib
import hashlib
import json
import os
import pathlib
import time

from medjax import cache
from medjax.checkpoints.files import content_files, content_hash, new_file
from medjax.cli import say
from medjax.errors import UserError

# A file that changes twice within a tick of its file system keeps its time stamp; FAT's lasts 2 s.
_TICK_NS = 2_000_000_000

Stamp = list[list[str | int]]


def remembered_hash(path: str | os.PathLike[str]) -> str:
    """`files.content_hash`, computed anew only if a file's name, size or time stamps changed.

    Raises:
      UserError: there is no such file or folder.
    """
    if not pathlib.Path(path).exists():
        raise UserError(f"{path} does not exist")
    path = pathlib.Path(path).resolve()
    stamp, now = _stamp(path), time.time_ns()
    note = cache.folder() / "hashes" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()}.json"
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        known = json.loads(note.read_text())
        if known["files"] == stamp:
            return known["sha256"]
    say(f"computing the hash of {path} ({sum(int(size) for _, size, *_ in stamp) / 1e9:.2g} GB)")
    sha256 = content_hash(path)
    newest = max((int(t) for _, _, *times in stamp for t in times), default=0)
    if newest < now - _TICK_NS and _stamp(path) == stamp:
        data = {"path": str(path), "sha256": sha256, "files": stamp}
        # A cache that cannot be written to costs time, and nothing else.
        with contextlib.suppress(OSError, UserError), new_file(note, overwrite=True) as file:
            file.write_text(json.dumps(data, indent=2) + "\n")
    return sha256


def _stamp(path: pathlib.Path) -> Stamp:
    """Name, size, and times of the last change of content and of inode of all files that count."""
    stats = {name: (path / name).stat() for name in content_files(path)}
    return [[name, s.st_size, s.st_mtime_ns, s.st_ctime_ns] for name, s in stats.items()]
