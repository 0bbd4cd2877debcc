"""The step that keeps text burned into images from a model: made black, or cut off."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from medjax.data.faults import BadExample
from medjax.data.medical.conditioning.burned_in import Common, Learner, Overlay, find
from medjax.data.medical.conditioning.settings import Settings
from medjax.data.medical.conditioning.step import SHOWN, Case, Report, pick
from medjax.data.medical.record import Pixels, Record

T = TypeVar("T")

NOTHING = "nothing found"
UNREADABLE = "image can't be read"
# So many images, evenly spaced, show what a dataset's images have in common.
_SAMPLE = 256
# A cut that would take more of the image than this is not made: the text is made black instead.
_LARGEST_CUT = 0.25
# From this share on, the images without any text are the exception, and worth a look.
_MOST = 0.5


def step(records: Sequence[Record], settings: Settings) -> tuple[list[Record], Report]:
    """Finds text in the images, and sets what is hidden ("mask") or kept ("crop") of them.

    What a record hides already stays hidden. An image that cannot be read stays as it is: whoever
    builds the dataset says what to do about it.
    """
    crop = settings.overlays == "crop"
    done = "cut off" if crop else "masked"
    common = learn(records)
    counts: dict[str, int] = {}
    cases: dict[str, list[Case]] = {}
    changed = []
    for record, found in zip(
        records, of_images(records, functools.partial(_look, common), "text in images"), strict=True
    ):
        kinds = [UNREADABLE] if found is None else [NOTHING]
        if found and found.overlays:
            kinds = [f"{kind} {done}" for kind in sorted({o.kind for o in found.overlays})]
            record = _without(record, found, crop)
        changed.append(record)
        text = "" if not found else "; ".join(f"{o.kind} at {list(o.box)}" for o in found.overlays)
        for kind in kinds:
            counts[kind] = counts.get(kind, 0) + 1
            shown = cases.setdefault(kind, [])
            if len(shown) < SHOWN:
                shown.append(Case(record, text, kind))
    without, unreadable = counts.pop(NOTHING, 0), counts.pop(UNREADABLE, 0)
    exceptions = 0 < without <= (1 - _MOST) * len(records)
    if not exceptions:  # a dataset without text needs no list of all its images
        cases.pop(NOTHING, None)
    return changed, Report(
        name="overlays",
        does="Finds text that is burned into images, and "
        + ("cuts it off." if crop else "makes it black."),
        changed=dict(sorted(counts.items())),
        unit="images",
        cases=pick(cases),
        figures={
            "images": len(records),
            NOTHING: without,
            UNREADABLE: unreadable,
            "watermarks": [{"corner": m.corner, "box": list(m.box)} for m in common.marks],
        },
        warnings=(
            f"{without} of {len(records)} images seem to have no text, though most others have: "
            "look at those that are shown.",
        )
        if exceptions
        else (),
    )


def learn(records: Sequence[Record]) -> Common:
    """What the images of a dataset have in common, as evenly spaced ones show."""
    count = min(len(records), _SAMPLE)
    sample = [records[i * len(records) // count] for i in range(count)]
    learner = Learner()
    for pixels in of_images(sample, lambda _, pixels: pixels, "what images have in common"):
        if pixels is not None:
            learner.add(pixels)
    return learner.common()


@dataclasses.dataclass(frozen=True)
class _Found:
    overlays: tuple[Overlay, ...]
    shape: tuple[int, int]


def _look(common: Common, record: Record, pixels: UInt8[np.ndarray, "height width 3"]) -> _Found:
    del record  # text is looked for in what is hidden already, too
    return _Found(find(pixels, common), (pixels.shape[0], pixels.shape[1]))


def of_images(
    records: Sequence[Record],
    function: Callable[[Record, UInt8[np.ndarray, "height width 3"]], T],
    what: str,
) -> Iterator[T | None]:
    """What a function makes of every record's image, in their order, by several threads.

    Args:
      function: of the record, and of its whole image, as displayed.
      what: is done, for the progress bar.

    Yields:
      What it gives; None for an image that cannot be read.
    """

    def call(record: Record) -> T | None:
        try:
            return function(record, record.image.pixels())
        except BadExample:
            return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        bar = tqdm(total=len(records), desc=what, unit="image", disable=len(records) < 500)
        # In portions: results that nobody has taken yet would fill the memory.
        for start in range(0, len(records), 256):
            for result in pool.map(call, records[start : start + 256]):
                bar.update()
                yield result
        bar.close()


def _without(record: Record, found: _Found, crop: bool) -> Record:
    boxes = [overlay.box for overlay in found.overlays]
    kept = record.crop
    if crop:
        kept, boxes = cut(found.shape, boxes, kept)
    hidden = tuple(dict.fromkeys((*record.hidden, *boxes)))
    return dataclasses.replace(record, hidden=hidden, crop=kept)


def cut(
    shape: tuple[int, int], boxes: Sequence[Pixels], kept: Pixels | None = None
) -> tuple[Pixels | None, list[Pixels]]:
    """What to keep of an image so that rectangles are outside of it.

    Each is cut off from the side where the least is lost, the one that loses least first.

    Args:
      shape: height, width.
      boxes: the rectangles.
      kept: what is kept anyway; None for all.

    Returns:
      The rectangle that is kept, None for all; and the boxes that lie too far inside to be cut off.
    """
    whole = kept or (0, 0, *shape)
    rest, inside = whole, list(boxes)
    while reaching := [box for box in inside if _area(_common_part(box, rest))]:
        best = max((side for box in reaching for side in _sides(box, rest)), key=_area)
        if _area(best) < (1 - _LARGEST_CUT) * _area(whole):
            break
        rest = best
        inside = [box for box in inside if _area(_common_part(box, rest))]
    inside = [box for box in inside if _area(_common_part(box, rest))]
    return (kept if rest == whole else rest), inside


def _sides(box: Pixels, rest: Pixels) -> tuple[Pixels, ...]:
    """What is left above, below, left and right of a box."""
    y1, x1, y2, x2 = rest
    return (y1, x1, box[0], x2), (box[2], x1, y2, x2), (y1, x1, y2, box[1]), (y1, box[3], y2, x2)


def _common_part(a: Pixels, b: Pixels) -> Pixels:
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


def _area(box: Pixels) -> int:
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)
