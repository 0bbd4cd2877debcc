"""What is asked of a slice of `mni152_vqa`, and how each true answer follows from the volume."""

import dataclasses
import zlib

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from medjax.data.datasets.mni152_vqa.slabs import Cut
from medjax.data.datasets.mni152_vqa.volume import Template
from medjax.data.loc_tokens import encode_box
from medjax.data.volumes import slice_for_display

# Levels of equal thickness, in the order of their depth.
NUM_LEVELS = 5
LEVELS = {
    "axial": ("bottom", "lower", "middle", "upper", "top"),
    "coronal": ("back", "mid back", "middle", "mid front", "front"),
    "sagittal": ("midline", "inner", "middle", "outer", "edge"),
}
# Grey matter's share of the image: upper bounds, where few slices lie, and their answers.
SHARES = ((0.15, "under 15 percent"), (0.23, "15 to 23 percent"), (1.0, "over 23 percent"))
# Fluid that brain tissue encloses is called much from this share of the image on.
MUCH_FLUID = 0.005
# What fills less of the image is not asked for: a few stray voxels are no object.
MIN_OBJECT = 0.005
# Grey matter outweighs white from this ratio on.
GREY_TO_WHITE = 2.0

_LEVEL_WORDS = {
    "axial": ("high in the head", "bottom", "top"),
    "coronal": ("far forward in the head", "back", "front"),
    "sagittal": ("far from the midline", "midline", "edge"),
}

# Every prefix of a task; `{how}`, `{low}` and `{high}` are filled with the plane's words.
PHRASINGS = {
    "caption": ("caption en",),
    "detect_brain": ("detect brain",),
    "detect_white_matter": ("detect white matter",),
    "plane": (
        "answer en which plane is this slice?",
        "answer en what is the plane of this image?",
        "answer en is this slice axial, coronal or sagittal?",
        "answer en name the plane of this slice",
        "answer en in which plane was this slice cut?",
    ),
    "level": (
        "answer en how {how} is this slice?",
        "answer en where between {low} and {high} is this slice?",
        "answer en name the level of this slice from {low} to {high}",
        "answer en which level from {low} to {high} is this?",
        "answer en at which level from {low} to {high} was this slice cut?",
    ),
    "share": (
        "answer en how much of the image is grey matter?",
        "answer en what share of the image is grey matter?",
        "answer en how many percent of the image are grey matter?",
        "answer en name the share of grey matter in this slice",
        "answer en how much of this slice does grey matter fill?",
    ),
    "balance": (
        "answer en is there more than twice as much grey matter as white matter?",
        "answer en does grey matter fill more than twice as much as white matter?",
        "answer en is white matter less than half as much as grey matter?",
        "answer en does this slice show more than twice as much grey as white matter?",
    ),
    "fluid": (
        "answer en does the brain enclose much fluid in this slice?",
        "answer en is there much fluid inside the brain?",
        "answer en does this slice show much fluid inside the brain?",
        "answer en is much fluid enclosed by brain in this slice?",
    ),
}
TASKS = tuple(PHRASINGS)


@dataclasses.dataclass(frozen=True)
class Question:
    """One question about a slice: its task, the number of its phrasing, and what is said."""

    task: str
    phrasing: int
    prefix: str
    suffix: str


def questions(template: Template, cut: Cut) -> list[Question]:
    """Asks everything there is to ask of a slice.

    In train every phrasing of every task is asked; elsewhere one of a task, chosen by a checksum of
    the slice and the task, so that each slice has one question a task and no two runs differ.
    """
    answers = _answers(template, cut)
    how, low, high = _LEVEL_WORDS[cut.plane]
    asked = []
    for task, suffix in answers.items():
        numbers = range(len(PHRASINGS[task]))
        if cut.split != "train":
            checksum = zlib.crc32(f"{cut.plane} {cut.position} {task}".encode())
            numbers = numbers[checksum % len(numbers) :][:1]
        for number in numbers:
            prefix = PHRASINGS[task][number].format(how=how, low=low, high=high)
            asked.append(Question(task, number, prefix, suffix))
    return asked


def _answers(template: Template, cut: Cut) -> dict[str, str]:
    """The true answer of every task that this slice can be asked."""

    def show(volume: Bool[np.ndarray, "right front top"]) -> Bool[np.ndarray, "height width"]:
        return slice_for_display(volume, cut.plane, cut.index)

    brain, grey, white = show(template.brain), show(template.grey), show(template.white)
    level = LEVELS[cut.plane][level_of(cut.depth)]
    share = next(answer for bound, answer in SHARES if grey.mean() < bound)
    outweighs = grey.sum() > GREY_TO_WHITE * white.sum()
    much_fluid = enclosed(brain).mean() >= MUCH_FLUID
    answers = {
        "caption": (
            f"{cut.plane} slice, {level}, {share} grey, {'little' if outweighs else 'much'} white, "
            f"{'much' if much_fluid else 'little'} fluid"
        ),
        "plane": cut.plane,
        "level": level,
        "share": share,
        "balance": _yes_no(outweighs),
        "fluid": _yes_no(much_fluid),
    }
    for label, pixels in boxes(template, cut).items():
        answers[f"detect_{label.replace(' ', '_')}"] = f"{encode_box(pixels, *brain.shape)} {label}"
    return answers


def boxes(template: Template, cut: Cut) -> dict[str, tuple[int, int, int, int]]:
    """The tight box, in pixels, of each object of a slice that is asked for, by its label."""
    regions = {
        label: slice_for_display(volume, cut.plane, cut.index)
        for label, volume in (("brain", template.brain), ("white matter", template.white))
    }
    return {label: box(region) for label, region in regions.items() if region.mean() >= MIN_OBJECT}


def level_of(depth: float) -> int:
    """The number of the level at a depth in [0, 1): 0 to 4."""
    return int(depth * NUM_LEVELS)


def box(region: Bool[np.ndarray, "height width"]) -> tuple[int, int, int, int]:
    """The tight box y1, x1, y2, x2 of a region (not empty), in pixels; far edges exclusive."""
    rows, columns = (np.nonzero(region.any(axis=axis))[0] for axis in (1, 0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def enclosed(region: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """The pixels outside a region from which no path of such pixels leads to the image's edge.

    A path steps up, down, left or right.
    """
    outside, _ = ndimage.label(~region)
    edges = (outside[0], outside[-1], outside[:, 0], outside[:, -1])
    return ~region & ~np.isin(outside, np.concatenate(edges))


def _yes_no(true: bool) -> str:
    return "yes" if true else "no"
