"""The folder of one run: what lies where, and that it belongs to one config.

config.json            the config, complete
tokenizer.model        of all stages; of 4M wordpiece.json
<stage>/checkpoints/   orbax, one folder a step
<stage>/metrics.jsonl  and TensorBoard events; curves.png, if matplotlib is installed
<stage>/model/         the stage's result, a model folder; of a mask codec mask_codec.npz
<stage>/reconstruction.{json,png}    of what makes tokens: how well it gives back what it is given
<stage>/tokenizers.json   of 4M: path and content hash of the tokenizers that it learned from
evaluation/            results.json, results.md, predictions.{jsonl,html,png}, settings.json, and of
                       PaliGemma predictions.parquet and system.json (what the model is); of 4M
                       directions.{html,png} instead; evaluation_<part>/ of other parts of the data
huggingface/           the last stage's result, merged; of 4M ml-4m/
export.json            how it was exported, to which files, and how far its logits differ
"""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from medjax import config as config_lib
from medjax.errors import UserError
from medjax.files import write_whole

# What may differ when a run continues: it changes neither the weights nor their order (kernels: but
# for rounding, as another device would).
_FREE = ("log_every", "kernels", "keep_latest", "checkpoint_every", "data.dir", "data.manual_dir",
         "data.workers", "data.image_cache_mib", "decode", "evaluate", "export")  # fmt: skip

_PLACES = ("config", "tokenizer", "wordpiece", "evaluation", "export", "huggingface", "fourm")


@dataclasses.dataclass(frozen=True)
class Workdir:
    """Paths within a run's folder."""

    path: pathlib.Path

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> "Workdir":
        """The folder at a path, which may begin with ~."""
        return cls(pathlib.Path(os.path.expanduser(path)))

    @property
    def config(self) -> pathlib.Path:
        return self.path / "config.json"

    @property
    def tokenizer(self) -> pathlib.Path:
        return self.path / "tokenizer.model"

    @property
    def wordpiece(self) -> pathlib.Path:
        return self.path / "wordpiece.json"

    @property
    def evaluation(self) -> pathlib.Path:
        return self.path / "evaluation"

    @property
    def export(self) -> pathlib.Path:
        return self.path / "export.json"

    @property
    def huggingface(self) -> pathlib.Path:
        return self.path / "huggingface"

    @property
    def fourm(self) -> pathlib.Path:
        return self.path / "ml-4m"

    def stage(self, name: str) -> pathlib.Path:
        return self.path / name

    def model(self, stage: str) -> pathlib.Path:
        return self.path / stage / "model"


def check(path: str | os.PathLike[str], config: ConfigDict) -> Workdir:
    """The folder for this config, which need not exist yet; nothing is written.

    Raises:
      UserError: the folder belongs to another config, or is no run's.
    """
    workdir = Workdir.of(path)
    taken = {getattr(workdir, name).name for name in _PLACES}
    if wrong := sorted(taken.intersection(config_lib.stage_names(config))):
        raise UserError(
            f"a stage cannot be called {wrong[0]}, which is another part of a run's folder"
        )
    if workdir.config.exists():
        differences = _differences(read_config(path), ConfigDict(json.loads(_text(config))))
        if differences:
            raise UserError(
                f"workdir {path} belongs to another config: {'; '.join(differences[:5])}. Choose "
                "another --workdir, or the config with which it was begun."
            )
    elif workdir.path.exists() and (not workdir.path.is_dir() or any(_others(workdir))):
        raise UserError(f"workdir {path} holds something else; choose a new or empty folder")
    return workdir


def _others(workdir: Workdir) -> Iterator[pathlib.Path]:
    """What lies in the folder, but for what a kill left of `create`."""
    half = f".{workdir.config.name}."
    return (child for child in workdir.path.iterdir() if not child.name.startswith(half))


def create(workdir: Workdir, config: ConfigDict) -> None:
    """Creates the folder with its config.

    Raises:
      UserError: it cannot be written to.
    """
    try:
        write_whole(workdir.config, _text(config).encode())
    except OSError as error:
        raise UserError(
            f"workdir {workdir.path} cannot be written to ({error.strerror}); choose another"
        ) from error


def _text(config: ConfigDict) -> str:
    return json.dumps(config.to_dict(), indent=2) + "\n"


def read_config(path: str | os.PathLike[str]) -> ConfigDict:
    """The config of a run's folder.

    Raises:
      UserError: it is no run's folder.
    """
    file = Workdir.of(path).config
    try:
        data = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is no workdir of a run: {file.name} cannot be read ({error})"
        ) from error
    if not isinstance(data, dict):
        raise UserError(f"{path} is no workdir of a run: {file.name} holds no config")
    return config_lib.resolve(ConfigDict(data), where=str(file))


def _differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    before, after = _flat(old.to_dict()), _flat(new.to_dict())
    return [
        f"{key} was {before.get(key, 'not set')!r} and is now {after.get(key, 'not set')!r}"
        for key in sorted(before | after)
        if before.get(key) != after.get(key) and not _is_free(re.sub(r"^stages\.[^.]+\.", "", key))
    ]


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in _FREE)


def _flat(data: dict, prefix: str = "") -> dict:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat
