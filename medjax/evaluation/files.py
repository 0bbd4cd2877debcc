"""Writing a result whole or not at all."""

import os
import pathlib
import uuid


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes `data` to `path` under a temporary name first, so that no reader sees half of it."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
