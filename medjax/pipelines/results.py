"""The results of a run's evaluation: where they lie, and whether they are still its config's."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from medjax.cli import say
from medjax.files import write_whole
from medjax.workdir import Workdir

_SETTINGS = "settings.json"


def folder_of(workdir: Workdir, part: str) -> pathlib.Path:
    """Where the results of a part of the data lie."""
    return workdir.evaluation if part == "test" else workdir.path / f"evaluation_{part}"


def settings(config: ConfigDict, keys: Sequence[str]) -> dict[str, Any]:
    """What results depend on beside the weights, as JSON gives it back: test data and some keys."""
    found = {"test": config.data.test.to_dict()} | {key: config[key].to_dict() for key in keys}
    return json.loads(json.dumps(found))


def begin(folder: pathlib.Path) -> None:
    """Before results are written: what is there is nobody's until `finish`."""
    (folder / _SETTINGS).unlink(missing_ok=True)


def describe(folder: pathlib.Path, name: str, parameters: int, licence: str) -> None:
    """Writes beside results what `comparison.systems` reads of their system.

    What somebody wrote there by hand stays: the name, whatever else there is, and the licence where
    the config has none.
    """
    written = read_json(folder / "system.json") or {}
    known = {"parameters": parameters} | ({"licence": licence} if licence else {})
    write_json(folder / "system.json", {"name": name} | written | known)


def finish(folder: pathlib.Path, asked: dict[str, Any]) -> None:
    """Notes that all is written, and the settings by which."""
    write_json(folder / _SETTINGS, asked)


def earlier(workdir: Workdir, asked: dict[str, Any], files: Sequence[str]) -> dict | None:
    """The results of an earlier run by the same settings, if all is still there; told of."""
    folder = workdir.evaluation
    outcome = read_json(folder / "results.json")
    whole = outcome is not None and all((folder / name).is_file() for name in files)
    if not whole or read_json(folder / _SETTINGS) != asked:
        return None
    say(f"evaluated already: {folder}; python -m medjax.evaluate asks again")
    say((folder / "results.md").read_text())
    return outcome


def read_json(path: pathlib.Path) -> dict | None:
    """A JSON file's object; None if there is none, or it is damaged."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def write_json(path: pathlib.Path, data: dict) -> None:
    """Writes a file, whole or not at all."""
    write_whole(path, (json.dumps(data, indent=2) + "\n").encode())
