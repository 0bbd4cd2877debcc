"""Examples by name: the one door through which commands reach their data."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from medjax.data.example import Example
from medjax.errors import UserError

DATASETS = ("mni152_vqa",)


class Source(Protocol):
    """Examples by index: of fixed length, safe to read from several threads, picklable.

    An example's text is cheap to read; its image is read when it is asked for.

    Attributes:
      faults: how many rows were left out when the source was opened, by reason.
    """

    faults: Mapping[str, int]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


def open_source(
    name_or_path: str,
    *,
    split: str = "",
    tasks: Sequence[str] = (),
    image_root: str | Path = "",
    data_dir: str | Path,
    on_bad_example: str = "error",
) -> Source:
    """Opens a dataset by its name, or a JSON-lines file by its path.

    Args:
      name_or_path: one of `DATASETS`, or a path that ends in .jsonl.
      split: of a named dataset; a file is a split of its own.
      tasks: keeps only examples whose `extra["task"]` is among these; all if empty.
      image_root: the folder that a file's image paths start from; the file's own if empty.
      data_dir: where named datasets are built on first use, and found later.
      on_bad_example: of a file: "error" stops at its first bad row, "skip" leaves bad rows out and
        counts them in `faults`.

    Raises:
      UserError: no such dataset, split, task or file, or the file has a bad row.
    """
    if name_or_path == "mni152_vqa":
        # Imported here: TFDS takes a second, and one's own data needs none of it.
        from medjax.data.datasets.mni152_vqa.source import Mni152VqaSource

        return Mni152VqaSource(split=split, tasks=tasks, data_dir=data_dir)
    if str(name_or_path).endswith(".jsonl"):
        from medjax.data.json_lines import JsonLinesSource

        if split:
            raise UserError(
                f"{name_or_path} has no splits, yet split={split!r} is asked for: "
                "give every split a file of its own and leave `split` empty."
            )
        return JsonLinesSource(
            name_or_path, tasks=tasks, image_root=image_root, on_bad_example=on_bad_example
        )
    raise UserError(
        f"There is no dataset {name_or_path!r}: name one of {', '.join(DATASETS)}, "
        "or give the path of a JSON-lines file that ends in .jsonl."
    )
