import numpy as np
import pytest
from PIL import Image, ImageFont

from medjax.data.example import Example
from medjax.evaluation import picture
from medjax.evaluation.predictions import from_example

BOX = "<loc0000><loc0000><loc1023><loc1023> brain"
INNER = "<loc0256><loc0256><loc0767><loc0767> brain"
PIXELS = np.full((60, 30, 3), 90, np.uint8)


def answered(tasks, said="axial", truth="axial"):
    return [
        from_example(
            Example(str(i), PIXELS, f"what is the {task}?", truth, "image", {"task": task}), said
        )
        for i, task in enumerate(tasks)
    ]


def colours(sheet, box=None):
    return {colour for _, colour in sheet.crop(box).getcolors(1 << 20)}


def rgb(name):
    return tuple(int(name[i : i + 2], 16) for i in (1, 3, 5))


def test_every_task_is_chosen_and_examples_are_spread():
    predictions = answered(["plane"] * 10 + ["level"] * 4 + ["share"])
    chosen = picture.choose(predictions, 6)
    assert [p.task for p in chosen] == ["plane"] * 3 + ["level"] * 2 + ["share"]
    assert [p.id for p in chosen] == ["1", "5", "8", "11", "13", "14"]
    assert picture.choose(predictions, 99) == predictions


def test_the_sheet_holds_what_is_asked_for():
    predictions = answered(["plane"] * 5)
    sheet = picture.contact_sheet(predictions, {"image": PIXELS}, count=5, columns=3)
    assert sheet.mode == "RGB"
    assert sheet.width == 2 * 32 + 3 * 300 + 2 * 28
    again = picture.contact_sheet(predictions, {"image": PIXELS}, count=5, columns=3)
    assert sheet.tobytes() == again.tobytes()
    # Tall images are centred in their square, on black.
    assert sheet.getpixel((32 + 150, 32 + 150)) == (90, 90, 90)
    assert sheet.getpixel((32 + 30, 32 + 150)) == (0, 0, 0)


def test_true_and_predicted_boxes_are_drawn():
    predictions = answered(["where"], said=INNER, truth=BOX)
    sheet = picture.contact_sheet(predictions, {"image": PIXELS})
    truth, guess = rgb(picture.TRUTH_COLOUR), rgb(picture.GUESS_COLOUR)
    left, top = 32 + 75, 32  # the image is 150 x 300 in the middle of its square
    assert sheet.getpixel((left, top + 150)) == truth
    assert sheet.getpixel((left + 75, top)) == truth
    inner = [sheet.getpixel((left + 37, y)) for y in range(top + 80, top + 220)]
    assert guess in inner
    assert (90, 90, 90) in inner
    assert not {truth, guess} & colours(sheet, (left + 50, top + 90, left + 100, top + 210))


def test_right_and_wrong_differ_in_more_than_colour():
    right = picture.contact_sheet(answered(["plane"]), {"image": PIXELS}).convert("L")
    wrong = picture.contact_sheet(answered(["plane"], truth="other"), {"image": PIXELS})
    area = (32, 32 + 300 + 10 + 22, 32 + 20, 32 + 300 + 10 + 44)
    shape = np.asarray(right.crop(area)) < 200
    other = np.asarray(wrong.convert("L").crop(area)) < 200
    assert shape.any()
    assert other.any()
    assert (shape != other).sum() > 20


@pytest.mark.parametrize("text", ["", "word", "many words " * 30, "unbroken" * 40, "脳 <b> \x00 é"])
def test_lines_fit(text):
    font = ImageFont.load_default(17)
    lines = picture.wrap(text, 17, 200, 3)
    assert 1 <= len(lines) <= 3
    assert all(font.getlength(line) <= 200 for line in lines)
    if len(text) < 50:
        assert "".join(lines).split() == text.split()
    else:
        assert lines[-1].endswith("...")


def test_the_file_is_a_png(tmp_path):
    path = tmp_path / "predictions.png"
    picture.write_picture(path, answered(["plane"]), {"image": PIXELS})
    with Image.open(path) as image:
        assert image.format == "PNG"
    with pytest.raises(ValueError, match="no predictions"):
        picture.write_picture(tmp_path / "none.png", [], {})
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.png"]
