"""Writes the drawn data set into a folder, in the form of the files of MedPix 2.0."""

import io
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from medjax.data.medical.drawn import heads, overlays, texts
from medjax.data.medical.drawn.plan import DrawnCase, DrawnImage, plan
from medjax.errors import UserError
from medjax.files import write_whole

_FEWEST = 4  # so that every part has a case, and train two
_PROGRESS_FROM = 20


def write(folder: str | Path, cases: int = 120, seed: int = 0) -> None:
    """Writes cases with drawn images: heads of the ICBM152 template, some with a lesion.

    Case_topic.json, Descriptions.json, images/*.png and splitted_dataset/ have the form, the sizes
    and the quirks of MedPix 2.0's; a diagnosis can be told from what is drawn. One diagnosis occurs
    in the test part alone. The same arguments give the same bytes.

    Args:
      folder: made if it is not there; files in it are replaced.
      cases: how many.
      seed: of everything that is drawn by lot.

    Raises:
      UserError: the cases are too few, or nilearn, which carries the template, is not installed.
    """
    if cases < _FEWEST:
        raise UserError(f"{cases} cases can't be split: draw at least {_FEWEST}.")
    folder = Path(folder).expanduser()
    planned = plan(cases, seed)
    # Of texts and images apart, so that a new sentence changes no image.
    rng = np.random.default_rng([seed, cases, 1])
    topics = {case.id: texts.case_topic(case, rng) for case in planned}
    described = {
        image.id: texts.description(case, image, rng) for case in planned for image in case.images
    }
    pairs = [(case, image) for case in planned for image in case.images]
    for number, (case, image) in enumerate(
        tqdm(pairs, "Drawing images", file=sys.stderr, disable=cases < _PROGRESS_FROM)
    ):
        png = _png(case, image, np.random.default_rng([seed, cases, 2, number]))
        write_whole(folder / "images" / f"{image.id}.png", png)
    # As in MedPix 2.0: first all CT, then all MR.
    in_order = sorted(described.values(), key=lambda row: row["Type"])
    _write_json(folder / "Descriptions.json", in_order)
    _write_json(
        folder / "Case_topic.json",
        [texts.without_nulls(topic) for topic in topics.values()],
        indent=4,
    )
    splits = folder / "splitted_dataset"
    parts = _parts(planned)
    _write_json(splits / "uid_list.json", parts)
    for part, ids in parts.items():
        _write_lines(splits / f"data_{part}.jsonl", (topics[name] for name in ids))
        rows = [row for row in in_order if row["U_id"] in set(ids)]
        _write_lines(splits / f"descriptions_{part}.jsonl", rows)


def _parts(planned: list[DrawnCase]) -> dict[str, list[str]]:
    """The cases of each part; those of train also in two halves."""
    train, dev, test = (
        [case.id for case in planned if case.part == part] for part in ("train", "dev", "test")
    )
    half = len(train) // 2
    return {
        "train": train, "train_1": train[:half], "train_2": train[half:], "dev": dev, "test": test,
    }  # fmt: skip


def _png(case: DrawnCase, image: DrawnImage, rng: np.random.Generator) -> bytes:
    values = heads.head_slice(
        image.plane, image.millimetres, image.modality, case.diagnosis, case.lesion, case.strength
    )
    grey = heads.finish(values, image.height, image.width, rng)
    transparent = bool(rng.random() < 0.5) if "rgba" in image.quirks else None
    corner = "left" if rng.random() < 0.5 else "right"
    picture = overlays.burn_in(grey, texts.footer(rng), corner, transparent=transparent)
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def _write_json(path: Path, value: Any, indent: int | None = None) -> None:
    write_whole(path, json.dumps(value, indent=indent).encode())


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines as pandas writes them: no spaces, and slashes escaped."""
    lines = (json.dumps(row, separators=(",", ":")).replace("/", "\\/") + "\n" for row in rows)
    write_whole(path, "".join(lines).encode())
