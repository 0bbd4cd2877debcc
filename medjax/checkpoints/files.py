"""Checkpoints' files and folders, which appear whole or not at all, and their content's hash."""

import contextlib
import hashlib
import os
import pathlib
from collections.abc import Iterator, Sequence

from medjax.errors import UserError
from medjax.files import Temporary

Path = str | os.PathLike[str]


def content_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, or of a folder's file names and bytes in sorted order.

    Hidden files (names that start with a dot) do not count.

    Raises:
      UserError: there is no such file or folder.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if path.is_file():
        return _file_hash(path)
    total = hashlib.sha256()
    for name in content_files(path):
        total.update(f"{name}\0{_file_hash(path / name)}\n".encode())
    return total.hexdigest()


def content_files(path: pathlib.Path) -> list[str]:
    """The files of a folder that its `content_hash` is made of, in order; "" for a file itself."""
    if path.is_file():
        return [""]
    return sorted(
        relative.as_posix()
        for relative in (file.relative_to(path) for file in path.rglob("*") if file.is_file())
        if not any(part.startswith(".") for part in relative.parts)
    )


def _file_hash(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def new_file(path: Path, *, overwrite: bool = False) -> Iterator[pathlib.Path]:
    """A temporary path to write to; on success it becomes `path`, on failure it is deleted.

    Raises:
      UserError: `path` exists and may not be overwritten, or cannot be created.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise UserError(f"output {path} is a folder, where a file is to be written")
    if path.exists() and not overwrite:
        raise UserError(
            f"output {path} exists; give another path or allow overwriting (--overwrite)"
        )
    with _temporary(path) as folder:
        yield folder / path.name
        os.replace(folder / path.name, path)


@contextlib.contextmanager
def new_folder(
    path: Path, *, markers: Sequence[str], overwrite: bool = False
) -> Iterator[pathlib.Path]:
    """A temporary folder to fill; on success it becomes `path`, on failure it is deleted.

    Args:
      path: the folder to create; an empty one may be there.
      markers: a folder that is overwritten must hold one of these files, so that a mistyped path
        never costs anything but an old result.
      overwrite: whether a folder with files may be replaced.

    Raises:
      UserError: `path` is taken and may not be overwritten, or cannot be created.
    """
    path = pathlib.Path(path)
    if path.exists() and not path.is_dir():
        raise UserError(f"output {path} is a file, where a folder is to be written")
    if path.is_dir() and any(path.iterdir()):
        if not overwrite:
            raise UserError(
                f"output {path} is not empty; give another path or allow overwriting (--overwrite)"
            )
        if not any((path / marker).is_file() for marker in markers):
            raise UserError(
                f"output {path} holds none of {', '.join(markers)}, so it is no earlier result; "
                "it is not overwritten"
            )
    with _temporary(path) as folder:
        new, old = folder / "new", folder / "old"
        new.mkdir()
        yield new
        if path.exists():
            os.replace(path, old)
        os.replace(new, path)


def _temporary(path: pathlib.Path) -> Temporary:
    try:
        return Temporary(path)
    except OSError as error:
        raise UserError(f"output {path} cannot be created: {error.strerror}") from error
