"""Slices of the ICBM152 template as samples: image, map of tissue, caption and boxes.

They are those of the dataset `mni152_vqa`, whose builder says what is shown, how it is split and
what is true of it.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from medjax.data.datasets.mni152_vqa.records import Pngs, records
from medjax.data.samples.sample import Box, Sample
from medjax.errors import UserError

NAMES = ("t1", "tissue", "caption", "det")


class Mni152Samples:
    """One sample a slice.

    Values: "t1" (image [H, W, 1]), "tissue" (labels: 1 grey matter, 2 white matter, 0 other),
    "caption" (a text), "det" (boxes of brain and, where there is enough of it, white matter).
    `extra` holds plane, slice, slab, level (0 to 4) and depth; scores should be resampled over
    slabs.

    Attributes:
      names: the values that every sample has.
      faults: none.
    """

    def __init__(self, *, split: str, names: Sequence[str] = NAMES, data_dir: str | Path):
        """Opens a split, building the dataset if `data_dir` lacks it.

        Args:
          split: "train", "validation" or "test".
          names: the values that samples are to have, of `NAMES`.
          data_dir: where TFDS datasets live.

        Raises:
          UserError: unknown split or value, or the dataset is to be built where nothing can be
            written.
        """
        if unknown := sorted(set(names) - set(NAMES)):
            raise UserError(
                f"mni152 has no value {', '.join(map(repr, unknown))}: it has {', '.join(NAMES)}."
            )
        self.names: tuple[str, ...] = tuple(names)
        self.faults: Mapping[str, int] = {}
        self._images, self._labels = Pngs(), Pngs()
        self._rows: list[dict] = []
        for record in records(data_dir, split):
            self._images.append(record["image"])
            self._labels.append(record["labels"])
            self._rows.append(_row(record))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        row = self._rows[index]
        number = index % len(self._rows)
        values = {
            "t1": functools.partial(self._image, number),
            "tissue": functools.partial(self._labels.__getitem__, number),
            **row["texts"],
        }
        asked = {name: values[name] for name in self.names}
        return Sample(row["id"], asked, row["extra"], where="mni152")

    def _image(self, number: int) -> UInt8[np.ndarray, "height width 1"]:
        return self._images[number][..., None]


def _row(record: Mapping) -> dict:
    """Everything of a Sample but its pictures."""
    found, asked = record["boxes"], record["questions"]
    captions = [
        suffix.decode()
        for task, suffix in zip(asked["task"], asked["suffix"], strict=True)
        if task == b"caption"
    ]
    boxes = tuple(
        Box(label.decode(), *map(float, box))
        for label, box in zip(found["label"], found["box"], strict=True)
    )
    return {
        "id": record["id"].decode(),
        "texts": {"caption": captions[0], "det": boxes},
        "extra": {
            "plane": record["plane"].decode(),
            "slice": int(record["slice"]),
            "slab": record["slab"].decode(),
            "level": int(record["level"]),
            "depth": float(record["depth"]),
        },
    }
