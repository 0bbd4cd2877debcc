"""`mni152_vqa` as examples."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from medjax.data.datasets.mni152_vqa.builder import Mni152Vqa
from medjax.data.datasets.mni152_vqa.questions import TASKS
from medjax.data.datasets.mni152_vqa.records import Pngs, records
from medjax.data.example import Example
from medjax.errors import UserError


class Mni152VqaSource:
    """One example a question, slice by slice.

    `extra` holds task, phrasing, plane, slice, slab and voxel_mm; scores should be resampled over
    slabs. Images are decoded when first asked for and then kept (8 MB for all of train).
    """

    def __init__(self, *, split: str, tasks: Sequence[str] = (), data_dir: str | Path):
        """Opens a split, building the dataset if `data_dir` lacks it.

        Args:
          split: "train", "validation" or "test".
          tasks: those of `TASKS` to keep; all if empty.
          data_dir: where TFDS datasets live.

        Raises:
          UserError: unknown split or task, or the dataset is to be built where nothing can be
            written.
        """
        if unknown := sorted(set(tasks) - set(TASKS)):
            raise UserError(
                f"mni152_vqa has no task {', '.join(map(repr, unknown))}: "
                f"name some of {', '.join(TASKS)}."
            )
        wanted = set(tasks or TASKS)
        self.faults: Mapping[str, int] = {}
        self._images = Pngs()
        # For each example: the place of its image, and everything else.
        self._rows: list[tuple[int, dict]] = []
        for record in records(data_dir, split):
            questions = record["questions"]
            for task, phrasing, prefix, suffix in zip(
                *(questions[key] for key in ("task", "phrasing", "prefix", "suffix")), strict=True
            ):
                if task.decode() in wanted:
                    self._rows.append(
                        (len(self._images), _row(record, task, phrasing, prefix, suffix))
                    )
            self._images.append(record["image"])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        number, row = self._rows[index]
        return Example(pixels=functools.partial(self._rgb, number), where="mni152_vqa", **row)

    def _rgb(self, number: int) -> UInt8[np.ndarray, "height width 3"]:
        return np.repeat(self._images[number][..., None], 3, axis=2)


def _row(record: Mapping, task: bytes, phrasing: int, prefix: bytes, suffix: bytes) -> dict:
    """The fields of an Example but for its image."""
    name = record["id"].decode()
    return {
        "id": f"{name}/{task.decode()}/{phrasing}",
        "prefix": prefix.decode(),
        "suffix": suffix.decode(),
        "image_key": f"mni152_vqa/{Mni152Vqa.VERSION}/{name}",
        "extra": {
            "task": task.decode(),
            "phrasing": int(phrasing),
            "plane": record["plane"].decode(),
            "slice": int(record["slice"]),
            "slab": record["slab"].decode(),
            "voxel_mm": float(record["voxel_mm"]),
        },
    }
