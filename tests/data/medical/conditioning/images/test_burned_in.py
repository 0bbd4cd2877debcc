"""Text burned into images is found, nearly all of it covered, and anatomy let be."""

import numpy as np
import pytest
from PIL import Image

from medjax.data.medical.conditioning import burned_in
from medjax.data.medical.conditioning.burned_in import FOOTER, HEADER, find


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


@pytest.fixture(scope="module")
def medpix_common(medpix):
    return learnt([d.pixels for d in medpix])


@pytest.fixture(scope="module", params=["drawn", "medpix"])
def images_and_found(request, drawn, medpix, common, medpix_common):
    """Images, and what is found in each."""
    images, known = (drawn, common) if request.param == "drawn" else (medpix, medpix_common)
    return images, [find(rgb(d.pixels), known) for d in images]


def tight(layer):
    rows, columns = np.nonzero(layer > 40)
    return rows.min(), columns.min(), rows.max() + 1, columns.max() + 1


def test_text_is_covered_and_little_else(images_and_found):
    """The margins of the figures in `burned_in`."""
    footers, marks, besides, headers = [], [], [], 0
    for d, found in zip(*images_and_found, strict=True):
        hidden = covered(d.clean.shape, found)
        footers.append(hidden[d.footer > 60].mean())
        marks.append(hidden[d.mark > 60].mean())
        for y1, x1, y2, x2 in map(tight, (d.footer, d.mark)):
            hidden[y1:y2, x1:x2] = False
        besides.append(hidden.mean())
        headers += HEADER in {overlay.kind for overlay in found}
    for of_kind in map(np.array, (footers, marks)):
        assert np.mean(of_kind > 0.5) >= 0.98
        assert np.mean(of_kind >= 0.95) >= 0.97
    assert np.mean(besides) <= 0.01
    assert np.mean(np.array(besides) <= 0.04) >= 0.95
    assert headers <= 0.05 * len(marks)


def test_boxes_are_no_higher_than_print(images_and_found):
    """A head may touch the line: all the same the box is the glyphs', and a pixel around them."""
    for d, found in zip(*images_and_found, strict=True):
        for y1, _, y2, _ in (overlay.box for overlay in found):
            glyphs = [tight(layer) for layer in (d.footer, d.mark)]
            height = max((g[2] - g[0] for g in glyphs if g[0] < y2 and y1 < g[2]), default=0)
            assert y2 - y1 <= max(1.6 * height, height + 4)


def test_anatomy_is_let_be(drawn, medpix, common, medpix_common):
    """Whether the dataset has no text at all, or these images have none."""
    for images, others in ((drawn, common), (medpix, medpix_common)):
        for known in (learnt([d.clean for d in images]), others):
            areas = [covered(d.clean.shape, find(rgb(d.clean), known)).mean() for d in images]
            assert np.mean(areas) < 0.002


def test_what_images_have_in_common(drawn, common):
    assert {mark.corner for mark in common.marks} >= {"top right"}
    assert learnt([d.clean for d in drawn]) == burned_in.Common()
    assert learnt([d.pixels for d in drawn[:15]]) == burned_in.Common()  # too few


@pytest.mark.parametrize("grows", [False, True])
def test_a_faint_watermark_shows_in_the_mean_alone(drawn, medpix, grows):
    """15% of white over anatomy is no print to be seen in one image; it may grow with the image."""
    if grows:  # all in one corner
        right = [tight(d.mark)[1] > d.mark.shape[1] / 2 for d in medpix]
        drawn = [d for d, side in zip(medpix, right, strict=True) if side]
    images = [
        (d.clean + (255.0 - d.clean) * 0.15 * d.mark / d.mark.max()).astype(np.uint8) for d in drawn
    ]
    common = learnt(images)
    assert "top right" in {mark.corner for mark in common.marks}
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


@pytest.mark.parametrize("size", [9, 12, 20])
@pytest.mark.parametrize("grey", [255, 120])
def test_lines_below_one_another(drawn, size, grey):
    """As a scanner writes them, and over anatomy."""
    from PIL import ImageDraw, ImageFont

    image = Image.fromarray(drawn[20].clean).resize((480, 440))
    layer = Image.new("L", image.size)
    draw = ImageDraw.Draw(layer)
    font = ImageFont.load_default(size)
    for i, text in enumerate(("DRAWN DATA nobody", "ID 1234567 F", "2001-02-03 10:11")):
        draw.text((6, 4 + i * int(1.2 * size + 1)), text, fill=255, font=font)
    image.paste(grey, mask=layer)
    pixels = np.asarray(image)
    hidden = covered(pixels.shape, find(rgb(pixels)))
    assert hidden[np.asarray(layer) > 60].mean() > 0.95
    assert hidden.mean() < 0.06
