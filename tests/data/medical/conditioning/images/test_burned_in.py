"""Text burned into images is found, nearly all of it covered, and anatomy let be."""

import numpy as np
import pytest
from PIL import Image

from medjax.data.medical.conditioning import burned_in
from medjax.data.medical.conditioning.burned_in import FOOTER, HEADER, WATERMARK, find


def rgb(grey):
    return np.repeat(grey[..., None], 3, axis=2)


def learnt(images):
    learner = burned_in.Learner()
    for image in images:
        learner.add(rgb(image))
    return learner.common()


def covered(shape, overlays):
    hidden = np.zeros(shape, bool)
    for overlay in overlays:
        y1, x1, y2, x2 = overlay.box
        assert 0 <= y1 < y2 <= shape[0]
        assert 0 <= x1 < x2 <= shape[1]
        hidden[y1:y2, x1:x2] = True
    return hidden


@pytest.fixture(scope="module")
def common(drawn):
    return learnt([d.pixels for d in drawn])


def test_text_is_found_and_covered(drawn, common):
    shares = {FOOTER: [], WATERMARK: []}
    beside = []
    headers = 0
    for d in drawn:
        found = find(rgb(d.pixels), common)
        headers += HEADER in {o.kind for o in found}
        hidden = covered(d.clean.shape, found)
        shares[FOOTER].append(hidden[d.footer > 40].mean())
        shares[WATERMARK].append(hidden[d.mark > 40].mean())
        text = np.zeros_like(hidden)
        for layer in (d.footer, d.mark):
            rows, columns = np.nonzero(layer > 40)
            text[
                rows.min() - 8 : rows.max() + 9, max(columns.min() - 12, 0) : columns.max() + 13
            ] = 1
        beside.append((hidden & ~text).mean())
    for of_kind in shares.values():
        assert np.mean(np.array(of_kind) > 0.5) >= 0.98
        assert np.mean(of_kind) >= 0.95
    assert np.mean(beside) < 0.02  # a line of text is a tenth of the lowest images
    assert headers < 0.03 * len(drawn)


def test_anatomy_is_let_be(drawn, common):
    """Whether the dataset has no text at all, or these images have none."""
    for known in (learnt([d.clean for d in drawn]), common):
        areas = [covered(d.clean.shape, find(rgb(d.clean), known)).mean() for d in drawn]
        assert np.mean(areas) < 0.005


def test_what_images_have_in_common(drawn, common):
    assert {mark.corner for mark in common.marks} >= {"top right"}
    assert learnt([d.clean for d in drawn]) == burned_in.Common()
    assert learnt([d.pixels for d in drawn[:15]]) == burned_in.Common()  # too few


def test_a_faint_watermark_shows_in_the_mean_alone(drawn):
    """15% of white over anatomy is no print to be seen in one image."""
    images = [
        np.clip(d.clean * (1 - 0.15 * d.mark / 255) + 0.15 * d.mark, 0, 255).astype(np.uint8)
        for d in drawn
    ]
    common = learnt(images)
    assert {mark.corner for mark in common.marks} == {"top right"}
    alone = sum(bool(find(rgb(image))) for image in images)
    found = [
        covered(image.shape, find(rgb(image), common))[d.mark > 40].mean()
        for image, d in zip(images, drawn, strict=True)
    ]
    assert alone < 0.1 * len(images)
    assert np.mean(np.array(found) > 0.9) >= 0.9


@pytest.mark.parametrize("ground", [0, 255])
def test_one_image_alone(ground):
    """Names above and below a picture, white on black and black on white."""
    from PIL import ImageDraw, ImageFont

    image = Image.new("L", (300, 240), ground)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(12)
    draw.text((8, 4), "DRAWN DATA NOBODY", fill=255 - ground, font=font)
    draw.text((150, 222), "1999-01-02 10:11:12", fill=255 - ground, font=font)
    found = {overlay.kind: overlay.box for overlay in find(rgb(np.asarray(image)))}
    assert found.keys() == {HEADER, FOOTER}
    assert found[HEADER][1] <= 8 < 100 < found[HEADER][3] < 180
    assert 120 < found[FOOTER][1] <= 150 < 250 < found[FOOTER][3]


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (40, 5), (96, 112)])
def test_images_of_any_size(shape, common):
    assert find(np.zeros((*shape, 3), np.uint8), common) == ()
