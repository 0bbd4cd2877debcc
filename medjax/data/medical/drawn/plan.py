"""Which cases and images are drawn, and which of them get which of MedPix 2.0's quirks."""

import dataclasses

import numpy as np

from medjax.data.medical.drawn import heads
from medjax.data.medical.drawn.lesions import DIAGNOSES, LOBES, NORMAL, UNSEEN, Diagnosis, Lesion

# Of MedPix 2.0's 671 cases; the rest is train.
_HELD_OUT = {"dev": 67 / 671, "test": 69 / 671}
_IMAGES = (0.2, 0.3, 0.3, 0.2)  # how many cases have 1, 2, 3, 4
_SHARED_CAPTIONS = 0.6  # of the cases with several images, whose captions are then all one
_PLANE_WEIGHTS = {"axial": 0.6, "coronal": 0.2, "sagittal": 0.2}
_MODALITY_WEIGHTS = {"CT": 0.5, "T1": 0.25, "T2": 0.25}
# Of MedPix 2.0's 2050 images, at least one each.
_QUIRKS = {
    "rgba": 288 / 2050,
    "caption_names_diagnosis": 145 / 2050,
    "placeholder_caption": 21 / 2050,
    "caption_not_available": 10 / 2050,
    "left_blank": 10 / 2050,
    "city": 1 / 2050,
    "leading_space": 20 / 2050,
    "no_plane": 20 / 2050,
    "no_sex": 20 / 2050,
    "no_acr_code": 200 / 2050,
    "figure_part": 400 / 2050,
}
_HEIGHTS, _WIDTHS = (96, 512), (112, 1024)


@dataclasses.dataclass(frozen=True)
class DrawnImage:
    """One image.

    Attributes:
      id: of the image.
      modality: "T1", "T2" or "CT".
      plane: "axial", "coronal" or "sagittal".
      millimetres: of the slice from the brain's centre.
      height: in pixels.
      width: in pixels.
      quirks: that it has.
    """

    id: str
    modality: str
    plane: str
    millimetres: float
    height: int
    width: int
    quirks: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class DrawnCase:
    """One case.

    Attributes:
      id: of the case.
      part: "train", "dev" or "test".
      diagnosis: of it.
      lobe: a key of `LOBES`; empty where the lesion has no one place.
      side: "left" or "right", or empty.
      lesion: where and how large.
      strength: of its contrast.
      age: in years.
      sex: "male" or "female".
      shared_caption: whether its images have one caption.
      images: of the case.
    """

    id: str
    part: str
    diagnosis: Diagnosis
    lobe: str
    side: str
    lesion: Lesion
    strength: float
    age: int
    sex: str
    shared_caption: bool
    images: tuple[DrawnImage, ...]


def plan(cases: int, seed: int) -> list[DrawnCase]:
    """Plans cases, in an order that mixes the parts; the same for the same arguments."""
    rng = np.random.default_rng([seed, cases])
    counts = {part: max(1, round(share * cases)) for part, share in _HELD_OUT.items()}
    parts = ["train"] * (cases - sum(counts.values()))
    diagnoses = _balanced(len(parts), rng)
    for part, count in counts.items():
        held_out = _balanced(count, rng)
        if part == "test":
            unseen = max(1, round(count / 6))
            held_out[:unseen] = [UNSEEN] * unseen
        parts += [part] * count
        diagnoses += held_out
    numbers = 9001 + rng.permutation(cases)
    planned = []
    image_number = 90001
    for i in rng.permutation(cases):
        case = _case(f"MPX{numbers[i]}", parts[i], diagnoses[i], image_number, rng)
        image_number += len(case.images)
        planned.append(case)
    return _with_quirks(planned, rng)


def _balanced(count: int, rng: np.random.Generator) -> list[Diagnosis]:
    """Every diagnosis about equally often, in any order."""
    order = [DIAGNOSES[i] for i in rng.permutation(len(DIAGNOSES))]
    repeated = [order[i % len(order)] for i in range(count)]
    return [repeated[i] for i in rng.permutation(count)]


def _case(
    name: str, part: str, diagnosis: Diagnosis, image_number: int, rng: np.random.Generator
) -> DrawnCase:
    side = str(rng.choice(["left", "right"]))
    lobe = str(rng.choice(list(LOBES)))
    lesion = _lesion(diagnosis, lobe, side, rng)
    if diagnosis is NORMAL:
        lobe, side = "", ""
    elif lesion.spots:
        lobe, side = "Multiple lobes", ""
    return DrawnCase(
        id=name,
        part=part,
        diagnosis=diagnosis,
        lobe=lobe,
        side=side,
        lesion=lesion,
        strength=rng.uniform(0.85, 1.0),
        age=int(rng.integers(18, 90)),
        sex=str(rng.choice(["male", "female"])),
        shared_caption=bool(rng.random() < _SHARED_CAPTIONS),
        images=_images(name, diagnosis, lesion, image_number, rng),
    )


def _lesion(diagnosis: Diagnosis, lobe: str, side: str, rng: np.random.Generator) -> Lesion:
    direction = np.array(LOBES[lobe]) + rng.uniform(-0.12, 0.12, 3)
    if side == "left":
        direction[0] *= -1
    direction /= np.linalg.norm(direction)
    centre = rng.uniform(*diagnosis.reach) * heads.surface(direction) * direction
    size = rng.uniform(*diagnosis.sizes)
    spots: list[np.ndarray] = []
    if diagnosis.name == "Metastases":
        # Five in each plane through the centre, so that every image shows several.
        for axis in range(3):
            while len(spots) < 5 * (axis + 1):
                spot = rng.uniform((-60, -80, -35), (60, 80, 60))
                spot[axis] = centre[axis]
                near = [np.linalg.norm(spot - other) < 3 * size for other in spots]
                if heads.in_brain(spot) and not any(near):
                    spots.append(spot)
    return Lesion(_point(centre), _point(direction), size, tuple(map(_point, spots)))


def _point(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _images(
    case: str, diagnosis: Diagnosis, lesion: Lesion, number: int, rng: np.random.Generator
) -> tuple[DrawnImage, ...]:
    kinds = [(modality, plane) for modality in _MODALITY_WEIGHTS for plane in diagnosis.planes]
    weights = np.array([_MODALITY_WEIGHTS[m] * _PLANE_WEIGHTS[p] for m, p in kinds])
    count = int(rng.choice(len(_IMAGES), p=_IMAGES)) + 1
    chosen = rng.choice(len(kinds), count, replace=False, p=weights / weights.sum())
    images = []
    for i, kind in enumerate(chosen):
        modality, plane = kinds[kind]
        axis = {"sagittal": 0, "coronal": 1, "axial": 2}[plane]
        near = rng.uniform(-0.3, 0.3) * lesion.size
        height = int(np.clip(rng.normal(300, 70), *_HEIGHTS))
        width = int(np.clip(height * rng.uniform(0.85, 1.3), *_WIDTHS))
        if rng.random() < 0.03:  # the ends of the real range
            height, width = (96, 112) if rng.random() < 0.5 else (512, 1024)
        millimetres = lesion.centre[axis] + near
        if not diagnosis.shape:
            millimetres = rng.uniform(-20, 30)
        name = f"{case}_synpic{number + i}"
        images.append(DrawnImage(name, modality, plane, millimetres, height, width))
    return tuple(images)


def _with_quirks(cases: list[DrawnCase], rng: np.random.Generator) -> list[DrawnCase]:
    names = [image.id for case in cases for image in case.images]
    quirks: dict[str, set[str]] = {name: set() for name in names}
    # One permutation for those that speak of the caption, so that no image has two of them, and
    # another for those of the location.
    for group in (
        ("caption_names_diagnosis", "placeholder_caption", "caption_not_available"),
        ("left_blank", "city"),
        *((quirk,) for quirk in _QUIRKS if "caption" not in quirk and quirk not in _LOCATIONS),
    ):
        order = rng.permutation(len(names))
        at = 0
        for quirk in group:
            count = max(1, round(_QUIRKS[quirk] * len(names)))
            for i in order[at : at + count]:
                quirks[names[i]].add(quirk)
            at += count
    return [
        dataclasses.replace(
            case,
            images=tuple(
                dataclasses.replace(image, quirks=frozenset(quirks[image.id]))
                for image in case.images
            ),
        )
        for case in cases
    ]


_LOCATIONS = ("left_blank", "city")
