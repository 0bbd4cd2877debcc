"""What the drawn diagnoses look like: shapes in the template's space, and how bright they are.

Points and lengths are in mm of the ICBM152 template, right, front, top from its centre.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

MODALITIES = ("T1", "T2", "CT")
# Directions from the brain's centre to the middle of each lobe, on the patient's right.
LOBES = {
    "Frontal lobe": (0.45, 0.80, 0.40),
    "Parietal lobe": (0.50, -0.40, 0.77),
    "Temporal lobe": (0.90, 0.10, -0.42),
    "Occipital lobe": (0.40, -0.91, 0.05),
}

# Brightness in T1, T2 and CT, 0 to 1.
Levels = tuple[float, float, float]
Points = Float[np.ndarray, "height width 3"]
Weights = Float[np.ndarray, "height width"]


@dataclasses.dataclass(frozen=True)
class Lesion:
    """One lesion of a case, the same in all of its images.

    Attributes:
      centre: of it.
      direction: unit vector from the brain's centre to the lobe.
      size: about its radius.
      spots: centres of the parts, where it has several.
    """

    centre: tuple[float, float, float]
    direction: tuple[float, float, float]
    size: float
    spots: tuple[tuple[float, float, float], ...] = ()


# (lesion, points, depth below the brain's surface) -> how much of a point each part covers.
Shape = Callable[[Lesion, Points, Weights], list[tuple[Weights, Levels]]]


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """A diagnosis that can be told from its look.

    Attributes:
      name: of it.
      category: of its topic.
      look: in words, with an article.
      shape: draws it; None draws nothing.
      reach: of the way from the brain's centre to its surface at which it lies, from and to.
      sizes: of its radius, from and to.
      planes: in which it can be recognised.
      others: that its differential diagnosis names.
    """

    name: str
    category: str
    look: str
    shape: Shape | None
    reach: tuple[float, float] = (0.0, 0.0)
    sizes: tuple[float, float] = (0.0, 0.0)
    planes: tuple[str, ...] = ("axial", "coronal", "sagittal")
    others: tuple[str, ...] = ()


def _inside(distance: Weights, radius: float, edge: float = 1.5) -> Weights:
    """1 well within the radius, 0 well outside, smooth over twice the edge."""
    share = np.clip((radius + edge - distance) / (2 * edge), 0, 1)
    return share * share * (3 - 2 * share)


def _distance(points: Points, centre: tuple[float, float, float]) -> Weights:
    return np.linalg.norm(points - np.asarray(centre), axis=-1)


def _lumps(points: Points, centre: tuple[float, float, float]) -> Weights:
    """How far a shape that is not quite round bulges in each direction, -0.5 to 1."""
    way = points - np.asarray(centre)
    x, y, z = np.moveaxis(way / np.maximum(np.linalg.norm(way, axis=-1, keepdims=True), 1), -1, 0)
    return x * y + y * z + z * x


def _angle(points: Points, apex: np.ndarray, direction: tuple[float, float, float]) -> Weights:
    """Between the way from the apex to each point and a direction, in radians."""
    ways = points - apex
    along = ways @ np.asarray(direction) / np.maximum(np.linalg.norm(ways, axis=-1), 1e-6)
    return np.arccos(np.clip(along, -1, 1))


def _mass(lesion: Lesion, points: Points, depth: Weights) -> list[tuple[Weights, Levels]]:
    distance = _distance(points, lesion.centre)
    distance = distance + 0.08 * lesion.size * _lumps(points, lesion.centre)
    halo = _inside(distance, lesion.size * 1.25, 3.0)
    return [(halo * 0.5, (0.30, 0.75, 0.38)), (_inside(distance, lesion.size), (0.97, 0.85, 0.86))]


def _ring(lesion: Lesion, points: Points, depth: Weights) -> list[tuple[Weights, Levels]]:
    distance = _distance(points, lesion.centre)
    distance = distance + 0.18 * lesion.size * _lumps(points, lesion.centre)
    wall = max(4.0, 0.28 * lesion.size)
    return [
        (_inside(distance, lesion.size * 1.5, 4.0) * 0.7, (0.32, 0.85, 0.36)),
        (_inside(distance, lesion.size), (0.97, 0.30, 0.90)),
        (_inside(distance, lesion.size - wall), (0.12, 0.97, 0.22)),
    ]


def _wedge(lesion: Lesion, points: Points, depth: Weights) -> list[tuple[Weights, Levels]]:
    apex = 18.0 * np.asarray(lesion.direction)
    # The size, seen from the apex at the usual distance of the cortex.
    angle = _angle(points, apex, lesion.direction)
    ragged = 1.2 * np.sin(points.sum(axis=-1) / 4)
    return [(_inside(angle * 50 + ragged, lesion.size, 3.5) * 0.9, (0.22, 0.95, 0.20))]


def _crescent(lesion: Lesion, points: Points, depth: Weights) -> list[tuple[Weights, Levels]]:
    angle = _angle(points, np.zeros(3), lesion.direction)
    thickness = lesion.size * np.clip(1 - (angle / 0.95) ** 2, 0, 1)
    covered = np.clip((thickness - depth) / 1.5, 0, 1) * (thickness > 0.5)
    return [(covered, (0.98, 0.95, 0.92))]


def _spots(lesion: Lesion, points: Points, depth: Weights) -> list[tuple[Weights, Levels]]:
    covered = np.max(
        [_inside(_distance(points, spot), lesion.size, 1.2) for spot in lesion.spots], axis=0
    )
    return [(covered, (0.98, 0.92, 0.90))]


def _cyst(lesion: Lesion, points: Points, depth: Weights) -> list[tuple[Weights, Levels]]:
    return [(_inside(_distance(points, lesion.centre), lesion.size), (0.04, 1.0, 0.06))]


NORMAL = Diagnosis("Normal brain", "Normal", "no lesion", None)
DIAGNOSES = (
    Diagnosis(
        "Meningioma", "Neoplasm", "a round bright mass", _mass, (0.62, 0.8), (12, 19),
        others=("Metastases", "Glioblastoma"),
    ),
    Diagnosis(
        "Glioblastoma", "Neoplasm", "a thick ring around a core", _ring, (0.45, 0.65),
        (15, 22), others=("Metastases", "Arachnoid cyst"),
    ),
    Diagnosis(
        "Metastases", "Neoplasm", "several small bright spots", _spots, (0.4, 0.6), (4.5, 6.5),
        others=("Glioblastoma", "Meningioma"),
    ),
    Diagnosis(
        "Cerebral infarction", "Infarction and/or Necrosis", "a wedge that reaches the cortex",
        _wedge, (0.6, 0.7), (19, 28), others=("Glioblastoma", "Normal brain"),
    ),
    Diagnosis(
        "Subdural hematoma", "Trauma", "a bright crescent along the skull", _crescent, (0.6, 0.7),
        (11, 17), planes=("axial", "coronal"), others=("Meningioma", "Normal brain"),
    ),
    NORMAL,
)  # fmt: skip
# Never among the cases to train on.
UNSEEN = Diagnosis(
    "Arachnoid cyst", "Cyst, benign", "a round space filled with fluid", _cyst, (0.6, 0.75),
    (14, 20), others=("Cerebral infarction", "Glioblastoma"),
)  # fmt: skip


def draw(
    values: Mapping[str, Weights],
    diagnosis: Diagnosis,
    lesion: Lesion,
    points: Points,
    depth: Weights,
    strength: float,
) -> dict[str, Weights]:
    """Draws a lesion into a slice.

    Args:
      values: the slice's brightness by modality, 0 to 1.
      diagnosis: says the shape.
      lesion: says where and how large.
      points: the slice's pixels.
      depth: of each pixel below the brain's surface, negative outside.
      strength: of the contrast, 0 to 1.
    """
    drawn = dict(values)
    if diagnosis.shape is None:
        return drawn
    inside = np.clip(depth + 1, 0, 1)
    for weights, levels in diagnosis.shape(lesion, points, depth):
        share = strength * weights * inside
        for modality, level in zip(MODALITIES, levels, strict=True):
            drawn[modality] = drawn[modality] * (1 - share) + level * share
    return drawn
