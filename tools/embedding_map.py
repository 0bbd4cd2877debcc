#!/usr/bin/env python
"""Maps what a 4M model's encoder makes of every modality of the same samples.

Each modality is given to the encoder alone; a point is the mean of what comes out. Writes
embedding_map.json, .html and .png. Needs the extra `report`.
"""

import argparse
import json
import pathlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from medjax import cli
from medjax.errors import UserError
from medjax.evaluation.embedding_map import (
    METHODS,
    Points,
    agreement,
    directions,
    project,
    write_png,
)
from medjax.evaluation.embedding_page import write_page
from medjax.files import write_whole

NAME = "embedding_map"
PARTS = ("train", "validation", "test")
MAX_LEVELS = 20
BOXES_SIDE = 160  # pixels of an image that boxes are drawn over, at least


class Run(Protocol):
    """What is needed of a finished run.

    Attributes:
      modalities: names of those that the encoder reads and that all samples have.
      samples: with `id` and `extra`.
    """

    modalities: Sequence[str]
    samples: Sequence[Any]

    def encode(self, modality: str, samples: Sequence[Any]) -> np.ndarray:
        """float32 [n, D], the mean of the encoder's valid tokens, that modality alone given."""

    def show(self, modality: str, sample: Any) -> np.ndarray | str:
        """The sample's value as people see it: uint8 [H, W, 3] or a text."""


class TrainedRun:
    """The `Run` of a folder of `medjax.train`, and one part of its data."""

    def __init__(self, workdir: pathlib.Path, part: str):
        """Opens both.

        Raises:
          UserError: no such run, it is not trained yet, or the part has no samples.
        """
        from medjax.modalities import display, table
        from medjax.pipelines.fourm import data, trained

        self._display, self._table = display, table
        self._trained = trained.load(workdir)
        config, model = self._trained.config, self._trained.model.config
        channels = {name: t.config.channels for name, t in self._trained.tokenizers.items()}
        inputs = [model.modality(name) for name in model.inputs]
        sources = data.open_sources(
            str(workdir), config, part, inputs, self._trained.wordpiece, channels
        )
        if not sources:
            raise UserError(
                f"{workdir}: data.{part} names no source; choose another with --split: "
                f"{', '.join(_parts(config))}"
            )
        source = max(sources.values(), key=lambda source: len(source.modalities))
        self.modalities = [modality.name for modality in source.modalities]
        self.samples = source.samples

    def encode(self, modality: str, samples: Sequence[Any]) -> np.ndarray:
        """See `Run`."""
        size, features = self._trained.config.evaluate.batch_size, []
        for start in range(0, len(samples), size):
            batch = samples[start : start + size]
            # One shape: the last batch is filled up with its last sample.
            filled = [*batch, *[batch[-1]] * (size - len(batch))]
            rows = self._trained.rows(filled, [modality])
            features.append(self._trained.features(rows, modality)[: len(batch)])
        return np.concatenate(features)

    def show(self, modality: str, sample: Any) -> np.ndarray | str:
        """See `Run`; boxes are drawn over the sample's image."""
        kind = self._trained.model.config.modality(modality)
        value = self._value(modality, sample)
        if kind.content in (self._table.IMAGE, self._table.LABELS):
            return self._display.picture(kind, value)
        if kind.content != self._table.BOXES:
            return value if isinstance(value, str) else " ".join(map(str, value))
        for name in self.modalities:
            if self._trained.model.config.modality(name).content == self._table.IMAGE:
                image = self.show(name, sample)
                times = -(-BOXES_SIDE // len(image))  # labels need room
                return self._display.boxes_picture(value, image.repeat(times, 0).repeat(times, 1))
        return ", ".join(box.label for box in value)

    def _value(self, modality: str, sample: Any) -> Any:
        rows = self._trained.rows([sample], [modality])
        return self._trained.true_values(rows, modality)[0]


def _parts(config: Any) -> list[str]:
    """The parts of a config's data that name a source."""
    return [part for part in PARTS if any(s.source for s in config.data[part].values())]


def gather(run: Run, level: str, count: int) -> Points:
    """Encodes at most `count` samples, evenly spaced, in every modality.

    Args:
      level: keys of the samples' `extra`, with commas between them; together they are the level.

    Raises:
      UserError: a sample does not say its level, or there are too many levels to tell apart.
    """
    count = min(count, len(run.samples))
    samples = [run.samples[i * len(run.samples) // count] for i in range(count)]
    keys = [key.strip() for key in level.split(",")]
    for sample in samples:
        if missing := [key for key in keys if key not in sample.extra]:
            raise UserError(
                f"sample {sample.id!r} does not say its {missing[0]!r}; name with --level what it "
                f"says: {', '.join(sample.extra) or 'nothing'}"
            )
    told = [[sample.extra[key] for key in keys] for sample in samples]
    levels = [values[0] if len(keys) == 1 else " ".join(map(str, values)) for values in told]
    if len(set(levels)) > MAX_LEVELS:
        raise UserError(
            f"--level {level} has {len(set(levels))} different values, such as {levels[0]!r}; a "
            f"map shows {MAX_LEVELS} or fewer"
        )
    names = list(run.modalities)
    return Points(
        features=np.concatenate([run.encode(name, samples) for name in names]),
        modalities=[name for name in names for _ in samples],
        levels=levels * len(names),
        ids=[sample.id for _ in names for sample in samples],
        thumbnails=[run.show(name, sample) for name in names for sample in samples],
    )


def draw(
    points: Points, folder: pathlib.Path, *, method: str, seed: int, level: str, centred: bool
) -> dict[str, Any]:
    """Writes the files; returns what the JSON says."""
    plane = project(directions(points, centred=centred), method, seed)
    called = level.replace(",", " and ")
    title = "Encoder features of every modality"
    title += ", each about its mean" if centred else ""
    raw, about_mean = agreement(points), agreement(points, centred=True)
    report = {
        "method": method,
        "seed": seed,
        "centred": centred,
        "level": level,
        "samples": len(set(points.ids)),
        "modalities": points.modality_names,
        "features": points.features.shape[1],
        "neighbours": raw.to_dict(),
        "neighbours_centred": about_mean.to_dict(),
    }
    note = (
        f"Of a point's {raw.k} nearest neighbours in another modality, other samples all, "
        f"{100 * raw.precision:.0f}% have its {called}, measured in the features themselves; "
        f"{100 * about_mean.precision:.0f}% once each modality's mean is taken off; "
        f"{100 * raw.chance:.0f}% would by chance."
    )
    try:
        write_png(folder / f"{NAME}.png", points, plane, title=title, level=called)
        write_page(folder / f"{NAME}.html", points, plane, title=title, level=called, notes=[note])
        text = json.dumps(report, indent=2, allow_nan=False) + "\n"
        write_whole(folder / f"{NAME}.json", text.encode())
    except OSError as error:
        raise UserError(f"--output {folder} cannot be written: {error.strerror}") from error
    cli.say(note)
    return report


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="folder of a 4M run")
    parser.add_argument(
        "--split", default="validation", choices=PARTS, help="part of the run's data"
    )
    parser.add_argument("--output", type=pathlib.Path, help="a folder; the run's own by default")
    parser.add_argument("--method", choices=METHODS, default="tsne")
    parser.add_argument("--level", default="level", help="keys of the data's lines that colour it")
    parser.add_argument(
        "--centred", action="store_true", help="map what is left without each modality's mean"
    )
    parser.add_argument("--samples", type=cli.positive, default=200, help="at most so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    args = parser.parse_args()
    workdir = args.workdir.expanduser()
    folder = args.output.expanduser() if args.output else workdir
    points = gather(TrainedRun(workdir, args.split), args.level, args.samples)
    report = draw(
        points, folder, method=args.method, seed=args.seed, level=args.level, centred=args.centred
    )
    if args.json:
        print(json.dumps(report))
    else:
        print(folder / f"{NAME}.html")


if __name__ == "__main__":
    cli.run(main)
