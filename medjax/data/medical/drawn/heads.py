"""Slices of the ICBM152 template as MR and CT would show them, with lesions drawn in."""

import functools

import numpy as np
import scipy.ndimage
from jaxtyping import Float32, UInt8
from PIL import Image

from medjax.data.datasets.mni152_vqa.volume import load_template
from medjax.data.medical.drawn.lesions import Diagnosis, Lesion, draw
from medjax.data.volumes import PLANES, slice_for_display

# Of the template's voxels, 1 mm each: what points are counted from.
_CENTRE = np.array([98.0, 118.0, 80.0])
# The slices that show enough of a brain, in mm from the centre.
_SHOWN = {"axial": (-22, 48), "coronal": (-58, 58), "sagittal": (-46, 46)}
# Brightness of the fluid around the brain, of the skull and of the scalp.
_SHELLS = {"T1": (0.10, 0.04, 0.85), "T2": (0.80, 0.04, 0.5), "CT": (0.3, 1.0, 0.35)}
_MARGIN = 16  # pixels around the brain, for skull and scalp

_template = functools.cache(load_template)


def surface(direction: np.ndarray) -> float:
    """How far the brain's surface lies from its centre in a direction, in mm."""
    template = _template()
    steps = np.arange(20.0, 110.0)
    voxels = np.rint(_CENTRE + steps[:, None] * direction).astype(int)
    voxels = np.clip(voxels, 0, np.array(template.tissue.shape) - 1)
    return float(steps[template.tissue[tuple(voxels.T)]].max())


def in_brain(point: np.ndarray) -> bool:
    """Whether a point, in mm from the centre, lies in grey or white matter."""
    return bool(_template().brain[tuple(np.rint(_CENTRE + point).astype(int))])


def head_slice(
    plane: str, millimetres: float, modality: str, diagnosis: Diagnosis, lesion: Lesion,
    strength: float,
) -> Float32[np.ndarray, "height width"]:  # fmt: skip
    """A slice of a head, one pixel a mm, cut close around it.

    Args:
      plane: "axial", "coronal" or "sagittal".
      millimetres: of the slice from the brain's centre; those at the ends are not shown.
      modality: "T1", "T2" or "CT".
      diagnosis: says what is drawn into it.
      lesion: says where.
      strength: of the lesion's contrast, 0 to 1.

    Returns:
      Brightness, 0 to 1.
    """
    template = _template()
    axis = PLANES[plane]
    index = round(float(_CENTRE[axis] + np.clip(millimetres, *_SHOWN[plane])))
    t1 = np.pad(_cut(template.t1, plane, index), _MARGIN).astype(np.float32)
    brain = scipy.ndimage.binary_fill_holes(np.pad(_cut(template.tissue, plane, index), _MARGIN))
    # The skull does not follow every furrow of the brain.
    inner = scipy.ndimage.gaussian_filter(brain.astype(np.float32), 5) > 0.4
    outside = scipy.ndimage.distance_transform_edt(~inner)
    depth = scipy.ndimage.distance_transform_edt(inner) - outside
    points = np.stack(
        [
            np.pad(_cut(grid, plane, index), _MARGIN, mode="reflect", reflect_type="odd")
            for grid in _grids(template.t1.shape)
        ],
        axis=-1,
    )
    tissues = {
        name: np.where(brain, value, _SHELLS[name][0]) for name, value in _tissues(t1).items()
    }
    values = draw(tissues, diagnosis, lesion, points, depth, strength)[modality]
    image = np.where(inner, values, _shell(outside, modality)).astype(np.float32)
    rows, columns = (np.flatnonzero(image.any(axis=1 - i)) for i in range(2))
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _cut(volume: np.ndarray, plane: str, index: int) -> np.ndarray:
    return slice_for_display(volume, plane, index)


@functools.cache
def _grids(shape: tuple[int, int, int]) -> list[np.ndarray]:
    """The coordinates of all voxels in mm from the centre, as views that take no memory."""
    grids = []
    for axis, length in enumerate(shape):
        line = np.arange(length, dtype=np.float32) - np.float32(_CENTRE[axis])
        grids.append(
            np.broadcast_to(line.reshape([-1 if i == axis else 1 for i in range(3)]), shape)
        )
    return grids


def _tissues(t1: np.ndarray) -> dict[str, np.ndarray]:
    """Brightness of the brain in each modality, from that in T1 of 0 to 255."""
    white = np.clip((t1 - 60) / 160, 0, 1)  # about 0 in fluid, 0.65 in grey and 1 in white matter
    return {
        "T1": 0.10 + 0.58 * white,
        "T2": 0.80 - 0.58 * white,
        "CT": 0.34 + 0.16 * np.minimum(white / 0.5, 1) - 0.03 * white,
    }


def _shell(outside: np.ndarray, modality: str) -> np.ndarray:
    """Fluid, skull and scalp around the brain, by their distance from it in pixels."""
    fluid, bone, scalp = _SHELLS[modality]
    shell = np.select([outside < 1, outside < 7, outside < 12], [fluid, bone, scalp], 0.0)
    return scipy.ndimage.gaussian_filter(shell, 0.7) * (outside < 13)


def finish(
    values: Float32[np.ndarray, "height width"],
    height: int,
    width: int,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "height width"]:
    """Puts a head into the middle of a black image, with a scanner's contrast and noise.

    Args:
      values: brightness, 0 to 1.
      height: of the image in pixels.
      width: of the image in pixels.
      rng: draws contrast and noise.
    """
    scale = rng.uniform(0.88, 0.96) * min(height / values.shape[0], width / values.shape[1])
    size = (round(values.shape[1] * scale), round(values.shape[0] * scale))
    head = np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BICUBIC))
    image = np.zeros((height, width), np.float32)
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    image[top : top + size[1], left : left + size[0]] = head
    there = np.clip(image, 0, 1) ** rng.uniform(0.85, 1.15) * rng.uniform(0.88, 1.0)
    noise = rng.normal(0, rng.uniform(0.008, 0.025), image.shape)
    return np.rint(255 * np.clip(there + noise * (image > 0.01), 0, 1)).astype(np.uint8)
