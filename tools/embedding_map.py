#!/usr/bin/env python
"""Maps what a 4M model's encoder makes of every modality of the same samples.

Each modality is given to the encoder alone; a point is the mean of what comes out. Writes
embedding_map.json, .html and .png. Needs the extra `report`.
"""

import argparse
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
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


class Run(Protocol):
    """What is needed of a finished run; `medjax.pipelines.fourm` has it.

    Attributes:
      modalities: by name, those that the encoder reads.
    """

    modalities: Mapping[str, Any]

    def samples(self, split: str) -> Sequence[Any]:
        """The samples of a split; with `id` and `extra`."""

    def encode(self, modality: str, samples: Sequence[Any]) -> np.ndarray:
        """float32 [n, D], the mean of the encoder's valid tokens, that modality alone given."""

    def show(self, modality: str, sample: Any) -> np.ndarray | str:
        """The sample's value as people see it: uint8 [H, W, 3] or a text."""


def gather(run: Run, split: str, level: str, count: int) -> Points:
    """Encodes at most `count` samples, evenly spaced over the split, in every modality.

    Raises:
      UserError: a sample does not say its level.
    """
    source = run.samples(split)
    count = min(count, len(source))
    samples = [source[i * len(source) // count] for i in range(count)]
    for sample in samples:
        if level not in sample.extra:
            raise UserError(
                f"sample {sample.id!r} does not say its {level}; name with --level what it says: "
                f"{', '.join(sample.extra) or 'nothing'}"
            )
    names = list(run.modalities)
    return Points(
        features=np.concatenate([run.encode(name, samples) for name in names]),
        modalities=[name for name in names for _ in samples],
        levels=[sample.extra[level] for _ in names for sample in samples],
        ids=[sample.id for _ in names for sample in samples],
        thumbnails=[run.show(name, sample) for name in names for sample in samples],
    )


def draw(points: Points, folder: pathlib.Path, method: str, seed: int, level: str) -> dict:
    """Writes the files; returns what the JSON says."""
    plane = project(directions(points), method, seed)
    raw, centred = agreement(points), agreement(points, centred=True)
    report = {
        "method": method,
        "seed": seed,
        "level": level,
        "samples": len(set(points.ids)),
        "modalities": points.modality_names,
        "features": points.features.shape[1],
        "neighbours": raw.to_dict(),
        "neighbours_centred": centred.to_dict(),
    }
    note = (
        f"Of a point's {raw.k} nearest neighbours in another modality, other samples all, "
        f"{100 * raw.precision:.0f}% have its {level}, measured in the features themselves; "
        f"{100 * centred.precision:.0f}% once each modality's mean is taken off; "
        f"{100 * raw.chance:.0f}% would by chance."
    )
    try:
        title = "Encoder features of every modality"
        write_png(folder / f"{NAME}.png", points, plane, title=title, level=level)
        write_page(
            folder / f"{NAME}.html", points, plane, title=title, level=level, notes=[note]
        )  # fmt: skip
        text = json.dumps(report, indent=2, allow_nan=False) + "\n"
        write_whole(folder / f"{NAME}.json", text.encode())
    except OSError as error:
        raise UserError(f"--output {folder} cannot be written: {error.strerror}") from error
    cli.say(note)
    return report


def main(load: Callable[[pathlib.Path], Run] | None = None) -> None:
    """The command; `load` opens the run of a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="folder of a 4M run")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--output", type=pathlib.Path, help="a folder; the run's own by default")
    parser.add_argument("--method", choices=METHODS, default="tsne")
    parser.add_argument("--level", default="level", help="what of a sample's extra colours it")
    parser.add_argument("--samples", type=cli.positive, default=200, help="at most so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    args = parser.parse_args()
    if load is None:
        from medjax.pipelines.fourm import load
    folder = args.output or args.workdir
    points = gather(load(args.workdir), args.split, args.level, args.samples)
    report = draw(points, folder, args.method, args.seed, args.level)
    if args.json:
        print(json.dumps(report))
    else:
        print(folder / f"{NAME}.html")


if __name__ == "__main__":
    cli.run(main)
