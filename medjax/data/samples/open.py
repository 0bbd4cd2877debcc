"""Samples by name: the one door through which 4M's commands reach their data."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from medjax.data.samples.sample import SampleSource
from medjax.data.samples.values import Limits
from medjax.errors import UserError
from medjax.modalities.table import IDS, LABELS, Modality

DATASETS = ("mni152",)


def open_samples(
    name_or_path: str,
    *,
    split: str = "",
    names: Sequence[str],
    modalities: Iterable[Modality],
    channels: Mapping[str, int] | None = None,
    image_root: str | Path = "",
    data_dir: str | Path,
    on_bad_example: str = "error",
    cache_bytes: int = 256 * 2**20,
) -> SampleSource:
    """Opens a dataset by its name, or a JSON-lines file by its path.

    Args:
      name_or_path: one of `DATASETS`, also with its split as in "mni152/train", or a path that ends
        in .jsonl.
      split: of a named dataset; a file is a split of its own.
      names: of the values that are to be read; every sample must have them all.
      modalities: which the values become; they say how a file's values are written, and what they
        may hold.
      channels: number of classes of labels, by modality; where it is not said, any are allowed.
      image_root: the folder that a file's paths start from; the file's own if empty.
      data_dir: where named datasets are built on first use, and found later.
      on_bad_example: of a file: "error" stops at its first bad row, "skip" leaves bad rows out and
        counts them in `faults`.
      cache_bytes: of a file: bounds the memory for images and the like that were read last.

    Raises:
      UserError: no such dataset, split or file, a value that the dataset does not have or that no
        modality is made of, or the file has a bad row.
    """
    if not names:
        raise UserError(f"No value of {name_or_path} is asked for: name some.")
    limits = limits_of(names, tuple(modalities), channels or {})
    dataset, _, its_split = str(name_or_path).partition("/")
    if dataset in DATASETS and its_split and not split:
        name_or_path, split = dataset, its_split
    if name_or_path == "mni152":
        # Imported here: TFDS takes a second, and one's own data needs none of it.
        from medjax.data.samples.mni152 import Mni152Samples

        return Mni152Samples(split=split, names=names, data_dir=data_dir)
    if str(name_or_path).endswith(".jsonl"):
        from medjax.data.samples.json_lines import JsonLinesSamples

        if split:
            raise UserError(
                f"{name_or_path} has no splits, yet split={split!r} is asked for: "
                "give every split a file of its own and leave `split` empty."
            )
        return JsonLinesSamples(
            name_or_path,
            limits,
            image_root=image_root,
            on_bad_example=on_bad_example,
            cache_bytes=cache_bytes,
        )
    raise UserError(
        f"There are no samples {name_or_path!r}: name one of {', '.join(DATASETS)}, "
        "or give the path of a JSON-lines file that ends in .jsonl."
    )


def limits_of(
    names: Sequence[str], modalities: Sequence[Modality], channels: Mapping[str, int]
) -> dict[str, Limits]:
    """What each value may hold: what all modalities that are made of it can take.

    Args: see `open_samples`.

    Raises:
      UserError: a value that no modality is made of, or that cannot be all that they take it for.
    """
    limits = {}
    for name in names:
        takers = [m for m in modalities if m.value == name]
        contents = sorted({m.content for m in takers})
        if not takers:
            known = sorted({m.value for m in modalities})
            raise UserError(
                f"No modality is made of the value {name!r}: they are made of {', '.join(known)}."
            )
        if len(contents) > 1:
            who = ", ".join(f"{m.name} ({m.content})" for m in takers)
            raise UserError(f"The value {name!r} cannot be all that it is taken for: {who}.")
        content = contents[0]
        ids = {
            LABELS: [channels[m.name] for m in takers if m.name in channels],
            IDS: [m.vocab_size for m in takers if m.vocab_size is not None],
        }.get(content, [])
        lengths = {m.length for m in takers if m.is_image} if content == IDS else set()
        if len(lengths) > 1:
            raise UserError(f"The ids {name!r} cannot be as many as {sorted(lengths)}.")
        limits[name] = Limits(content, min(ids, default=None), next(iter(lengths), None))
    return limits
