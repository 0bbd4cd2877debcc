"""Examples by name: the one door through which commands reach their data."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from medjax.data.example import Example
from medjax.data.medical import catalogue
from medjax.data.medical.conditioning.settings import DEFAULT, Settings
from medjax.errors import UserError

DATASETS = ("mni152_vqa", *catalogue.NAMES)


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
    modes: Sequence[str] = (),
    folder: str | Path = "",
    manual_dir: str | Path = "",
    image_root: str | Path = "",
    data_dir: str | Path,
    conditioning: Settings = DEFAULT,
    on_bad_example: str = "error",
) -> Source:
    """Opens a dataset by its name, or a JSON-lines file by its path.

    Args:
      name_or_path: one of `DATASETS`, or a path that ends in .jsonl.
      split: of a named dataset; a file is a split of its own.
      tasks: keeps only examples whose `extra["task"]` is among these; all if empty.
      modes: as `tasks`, of a medical dataset's `extra["mode"]`.
      folder: of a medical dataset's own files; none: that of its name in `manual_dir`.
      manual_dir: holds the folders of medical datasets.
      image_root: the folder that a file's image paths start from; the file's own if empty.
      data_dir: where named datasets are built on first use, and found later.
      conditioning: of medical datasets.
      on_bad_example: "error" stops at the first bad row, "skip" leaves bad rows out and counts them
        in `faults`.

    Raises:
      UserError: no such dataset, split, task or file, or the file has a bad row.
    """
    if name_or_path == "mni152_vqa":
        # Imported here: TFDS takes a second, and one's own data needs none of it.
        from medjax.data.datasets.mni152_vqa.source import Mni152VqaSource

        return Mni152VqaSource(split=split, tasks=tasks, data_dir=data_dir)
    if name_or_path in catalogue.NAMES:
        from medjax.data.medical.source import MedicalSource

        return MedicalSource(
            name_or_path,
            folder=folder or Path(manual_dir) / name_or_path,
            data_dir=data_dir,
            split=split,
            tasks=tasks,
            modes=modes,
            settings=conditioning,
            on_bad_example=on_bad_example,
        )
    if str(name_or_path).endswith(".jsonl"):
        if modes:
            raise UserError(f"{name_or_path} is a file, which has no modes: leave `modes` empty.")
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
