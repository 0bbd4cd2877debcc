"""Where medjax keeps what it can make again."""

import os
import pathlib


def folder() -> pathlib.Path:
    """medjax's folder in the user's cache."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(root).expanduser() / "medjax"
