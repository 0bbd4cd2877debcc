"""Which slices of the template are shown, and which split each belongs to.

Neighbouring slices of a head look alike, so splits are made of slabs: runs of neighbouring slices,
with slices left out between any two slabs. Along every plane's axis slabs of train alternate with
slabs of the other two in turn, and train has the slabs at both ends: what is held out lies between
slices that were seen. Slabs, not slices, are what can be called independent, and the unit in which
scores should be resampled.
"""

import dataclasses

import numpy as np

from medjax.data.datasets.mni152_vqa.volume import MIDLINE, Template
from medjax.data.volumes import PLANES, slice_for_display

SPLITS = ("train", "validation", "test")

# Slices whose tissue fills less of the image than this are not shown.
MIN_TISSUE = 0.05
# Slices left out between slabs: the nearest slices of two slabs are 3 mm apart.
GAP = 2
# How many slabs are held out, and how many slices each has; train has the rest.
_HELD_OUT = {"axial": (9, 4), "coronal": (10, 4), "sagittal": (5, 3)}
# Coronal slabs start with the other, so that neither split has all the slabs at the beginnings.
_TURNS = {
    "axial": ("test", "validation"),
    "coronal": ("validation", "test"),
    "sagittal": ("test", "validation"),
}


@dataclasses.dataclass(frozen=True)
class Cut:
    """One slice that is shown.

    Attributes:
      plane: "axial", "coronal" or "sagittal".
      position: mm from the volume's bottom (axial) or back (coronal), or from the midline.
      index: of the slice in the volume, along the plane's axis.
      depth: how far along the tissue's extent the slice lies, in [0, 1): from bottom to top, back
        to front, midline to side.
      split: "train", "validation" or "test".
      slab: names the run of neighbouring slices it belongs to, such as "axial-03".
    """

    plane: str
    position: int
    index: int
    depth: float
    split: str
    slab: str


def cuts(template: Template) -> list[Cut]:
    """Lists every slice shown, plane by plane, in the order of positions."""
    return [cut for plane in ("axial", "coronal", "sagittal") for cut in _plane(template, plane)]


def _plane(template: Template, plane: str) -> list[Cut]:
    # The template's halves mirror each other: one of them holds every sagittal slice there is.
    origin = MIDLINE if plane == "sagittal" else 0
    share = np.array(
        [
            slice_for_display(template.tissue, plane, index).mean()
            for index in range(origin, template.tissue.shape[PLANES[plane]])
        ]
    )
    inside = np.nonzero(share > 0)[0]
    shown = np.nonzero(share >= MIN_TISSUE)[0]
    first, length = inside[0], inside[-1] + 1 - inside[0]
    return [
        Cut(
            plane=plane,
            position=int(position),
            index=origin + int(position),
            depth=float((position - first) / length),
            split=split,
            slab=f"{plane}-{number:02d}",
        )
        for number, split, start, stop in _slabs(plane, int(shown[0]), int(shown[-1]) + 1)
        for position in range(start, stop)
    ]


def _slabs(plane: str, start: int, stop: int) -> list[tuple[int, str, int, int]]:
    """Tiles [start, stop) with slabs: (number, split, its start, its stop)."""
    held_out, length = _HELD_OUT[plane]
    train = stop - start - held_out * (length + 2 * GAP)
    slabs: list[tuple[int, str, int, int]] = []
    for turn in range(held_out + 1):
        # The slices of train are dealt out as evenly as whole numbers can be.
        end = start + train * (turn + 1) // (held_out + 1) - train * turn // (held_out + 1)
        slabs.append((2 * turn, "train", start, end))
        if turn < held_out:
            first = end + GAP
            start = first + length
            slabs.append((2 * turn + 1, _TURNS[plane][turn % 2], first, start))
            start += GAP
    return slabs
