"""Slices of a head as anatomy, drawn text over them, and records of image files."""

import dataclasses
import pathlib

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from medjax.data.datasets.mni152_vqa.volume import load_template
from medjax.data.medical.drawn import heads, overlays, plan, texts
from medjax.data.medical.record import FileImage, Question, Record
from medjax.data.volumes import slice_for_display

WORDS = ("drawn", "data", "nobody", "made", "this", "image", "for", "tests", "alone")


@pytest.fixture(scope="session")
def anatomy() -> list[np.ndarray]:
    """uint8 [height, width], slices at least 8 mm apart, different from each other."""
    t1 = load_template().t1
    places = [("axial", i) for i in range(40, 150, 8)]
    places += [("coronal", i) for i in range(40, 190, 8)]
    places += [("sagittal", i) for i in range(100, 160, 8)]
    return [np.ascontiguousarray(slice_for_display(t1, plane, i)) for plane, i in places]


@dataclasses.dataclass(frozen=True)
class Drawn:
    """An image with text: without it, with it, and where the text is, 0 to 255."""

    clean: np.ndarray
    pixels: np.ndarray
    footer: np.ndarray
    mark: np.ndarray


def _text(shape, text, font, place) -> np.ndarray:
    """White on black; `place` gives x and y for the text's size."""
    layer = Image.new("L", shape[::-1])
    draw = ImageDraw.Draw(layer)
    x, y = place(*draw.textbbox((0, 0), text, font=font)[2:])
    draw.text((x, y), text, fill=255, font=font)
    return np.asarray(layer)


def draw(slice_, rng, mark_at="top right") -> Drawn:
    """A slice at a random size, some enlarged until it fills the image, with noise and text."""
    if rng.random() < 0.3:
        height, width = slice_.shape
        slice_ = slice_[height // 4 : -height // 4, width // 4 : -width // 4]
    height = int(rng.integers(96, 513))
    width = int(np.clip(height * rng.uniform(0.6, 2), 170, 1024))
    clean = np.asarray(Image.fromarray(slice_).resize((width, height))).astype(float)
    clean = clean * rng.uniform(0.6, 1.1) + rng.normal(0, rng.uniform(0, 8), clean.shape)
    clean = np.clip(clean, 0, 255).astype(np.uint8)
    fonts = ImageFont.load_default_imagefont(), ImageFont.load_default(int(rng.integers(10, 14)))
    font = fonts[rng.integers(len(fonts))]
    words = " ".join(rng.choice(WORDS, 2))
    text = f"Uploaded {rng.integers(1998, 2020)}-0{rng.integers(1, 9)}-11 {words}"
    left = rng.random() < 0.5
    footer = _text(
        clean.shape, text, font,
        lambda w, h: (4 if left else max((width - w) // 2, 2), height - h - 3),
    )  # fmt: skip
    mark = _text(
        clean.shape, "MedPix", ImageFont.load_default(14),
        lambda w, h: (6 if mark_at.endswith("left") else width - w - 6, 5),
    )  # fmt: skip
    pixels = clean.astype(float)
    for layer, opacity in ((mark, 0.45), (footer, 1.0)):
        alpha = opacity * layer / 255
        pixels = pixels * (1 - alpha) + 255 * alpha
    return Drawn(clean, pixels.astype(np.uint8), footer, mark)


@pytest.fixture(scope="session")
def drawn(anatomy) -> list[Drawn]:
    """Images with text."""
    rng = np.random.default_rng(0)
    return [draw(slice_, rng) for slice_ in anatomy for _ in range(2)]


@pytest.fixture(scope="session")
def medpix() -> list[Drawn]:
    """Images of the drawn MedPix, whose text grows with them."""
    rng = np.random.default_rng(0)
    images = [(case, image) for case in plan.plan(26, 0) for image in case.images][:60]
    made = []
    for case, image in images:
        values = heads.head_slice(
            image.plane, image.millimetres, image.modality, case.diagnosis, case.lesion,
            case.strength,
        )  # fmt: skip
        clean = heads.finish(values, image.height, image.width, rng)
        corner = "left" if rng.random() < 0.5 else "right"
        footer = texts.footer(rng)
        pixels, text, mark = (
            np.asarray(overlays.burn_in(grey, line, corner, transparent=None))[..., 0]
            for grey, line in ((clean, footer), (0 * clean, footer), (0 * clean, ""))
        )
        made.append(Drawn(clean, pixels, text - mark, mark))
    return made


@dataclasses.dataclass
class Folder:
    """Writes images, and gives records of them."""

    path: pathlib.Path

    def record(self, name, pixels, caption="", patient="", split="train", form="png", **facts):
        """A record of an image that is written as PNG or JPEG."""
        file = self.path / f"{name}.{form}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file, **({"quality": 50} if form == "jpg" else {}))
        questions = (Question(f"{name}/caption", "caption", "", caption, form="caption"),)
        return Record(
            name, FileImage.at(file), patient or f"patient of {name}", split,
            questions if caption else (), facts, where=str(file),
        )  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Folder:
    """For the images of one test."""
    return Folder(tmp_path)


@pytest.fixture
def clean_records(folder, anatomy) -> list[Record]:
    """Records of three parts that share nothing."""
    splits = ("train", "train", "validation", "test")
    return [
        folder.record(
            f"scan{i:02d}", slice_, split=splits[i % 4],
            caption=f"A slice through the head, one of a series, with the number {i} alone",
        )
        for i, slice_ in enumerate(anatomy[:16])
    ]  # fmt: skip
