import base64
import hashlib
import html.parser
import json
import re

import numpy as np
import pytest
from PIL import Image

from medjax.evaluation import bootstrap
from medjax.evaluation.fourm import page, picture
from medjax.evaluation.fourm.cases import Case
from medjax.evaluation.fourm.report import FILES, Report
from medjax.evaluation.fourm.scores import Direction, dice, psnr

EVIL = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)> & %%title 脳 \ud83e"
TISSUE = Direction(("t1", "caption"), "tok_tissue")
CAPTION = Direction(("t1",), "caption")
T1 = Direction(("tok_tissue",), "tok_t1")
CLASSES = ("none", "grey", EVIL)
COUNT = 11


def show(name, value):
    if name == "caption":
        return value
    if name == "tok_tissue":
        return np.array([[0, 0, 0], [9, 99, 199], [200, 100, 0]], np.uint8)[value]
    return np.repeat(np.uint8(127.5 * (np.clip(value, -1, 1) + 1)), 3, -1)


def samples():
    random = np.random.default_rng(0)
    for number in range(COUNT):
        yield {
            "id": EVIL if number == 4 else f"sample/{number}",
            "group": f"slab {number // 3}",
            "t1": random.uniform(-1, 1, (16, 12, 1)).astype(np.float32),
            "tok_tissue": random.integers(0, 3, (16, 12)),
            "caption": EVIL if number == 4 else f"slice {number}",
        }


def made_of(sample):
    """By direction: content, what each system made, and the truth."""
    labels, image = sample["tok_tissue"], sample["t1"]
    return {
        TISSUE: (
            "labels",
            {"mean": 0 * labels, "ceiling": labels, "4M <i>": np.roll(labels, 1)},
            labels,
        ),
        CAPTION: ("text", {"mean": "slice 1", "4M <i>": sample["caption"]}, sample["caption"]),
        T1: ("image", {"mean": 0 * image, "4M <i>": 0.5 * image}, image),
    }


def filled(**options):
    report = Report(show, title=EVIL, systems=("mean", "ceiling", "4M <i>"), **options)
    for sample in samples():
        for direction, (content, made, true) in made_of(sample).items():
            given = {name: sample[name] for name in direction.given}
            cut = sample["id"] == "sample/2"
            case = Case(sample["id"], sample["group"], given, made, true, cut)
            report.add(direction, content, case, CLASSES)
    return report


class Reader(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for found, attributes in self.elements if found == tag]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "new"
    return folder, filled(shown=6).write(folder)


def test_scores_are_those_of_all_samples(written):
    folder, table = written
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    loaded = json.loads((folder / "results.json").read_text("utf-8"))
    assert list(loaded["tasks"]) == ["t1,caption -> tok_tissue", "t1 -> caption",
                                     "tok_tissue -> tok_t1"]  # fmt: skip
    groups = [sample["group"] for sample in samples()]
    grey = [dice(np.roll(s["tok_tissue"], 1), s["tok_tissue"], 3)[0] for s in samples()]
    row = loaded["tasks"]["t1,caption -> tok_tissue"]["dice/grey"]
    assert (row["samples"], row["slabs"]) == (COUNT, 4)
    assert row["systems"]["4M <i>"]["value"] == pytest.approx(np.mean(grey))
    low, high = bootstrap.interval(grey, groups)
    assert (row["systems"]["4M <i>"]["low"], row["systems"]["4M <i>"]["high"]) == (low, high)
    assert row["systems"]["ceiling"]["value"] == 1.0
    made = loaded["tasks"]["tok_tissue -> tok_t1"]["psnr"]
    half = np.mean([psnr(0.5 * s["t1"], s["t1"]) for s in samples()])
    assert made["systems"]["4M <i>"]["value"] == pytest.approx(half)
    assert made["differences"]["mean"]["value"] == pytest.approx(20 * np.log10(2))
    assert "ceiling" not in made["systems"]
    assert loaded["truncated"] == {"mean": 3, "ceiling": 1, "4M <i>": 3}
    markdown = (folder / "results.md").read_text("utf-8")
    assert markdown.startswith("| direction | metric | samples | slabs | mean | ceiling | 4M <i> |")
    assert "- 4M <i> − mean: +6.02 [+6.02, +6.02] PSNR (dB), tok_tissue -> tok_t1" in markdown
    assert table.to_dict() == loaded


def test_some_samples_are_shown_evenly_spaced(written):
    read = Reader((written[0] / "directions.html").read_text("utf-8"))
    rows = read.all("li")
    assert [row["id"] for row in rows[:6]] == [f"direction0-{n}" for n in (1, 3, 5, 7, 9, 11)]
    assert len(rows) == 18
    assert rows[2]["data-id"] == EVIL.replace("\ud83e", "?")
    assert rows[2]["data-group"] == "slab 1"
    scores = [np.mean(dice(np.roll(s["tok_tissue"], 1), s["tok_tissue"], 3)) for s in samples()]
    assert float(rows[2]["data-scores"].split()[2]) == pytest.approx(scores[4], rel=1e-5)
    assert rows[6]["data-scores"].split()[1:] == ["-", "1"]
    # What was given, what each of the systems made, what is true.
    figures = [a["class"] for a in read.all("figure")]
    assert figures[:6] == [
        "given image", "given words", "made by0 image", "made by1 image", "made by2 image",
        "true image",
    ]  # fmt: skip
    assert figures[36:40] == ["given image", "made by0 words", "made by2 words", "true words"]
    assert "11 samples, of which 6 are shown" in read.text


def test_the_page_trusts_nothing_and_needs_nothing(written):
    text = (written[0] / "directions.html").read_text("utf-8")
    read = Reader(text)
    assert len(read.all("script")) == 1
    assert not {"img", "i"} & {tag for tag, _ in read.elements}
    assert not any(name.startswith("on") for _, found in read.elements for name in found)
    assert read.text.count(EVIL.replace("\ud83e", "?")) >= 6  # title, texts, id, class, truths
    links = [a[key] for _, a in read.elements for key in ("href", "src") if key in a]
    assert all(link.startswith(("data:image/", "#")) for link in links)
    ids = {a["id"] for _, a in read.elements if "id" in a}
    assert {link[1:] for link in links if link.startswith("#")} <= ids
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert set(re.findall(r'get\("(\w+)"\)', script)) <= ids


def test_equal_pictures_are_one(written):
    read = Reader((written[0] / "directions.html").read_text("utf-8"))
    # Of six samples: image, labels, rolled labels, half image; one empty mask and one grey image.
    assert len(read.all("image")) == 4 * 6 + 2
    used = [a["href"] for a in read.all("use")]
    assert len(used) == 6 * (5 + 1 + 4)
    assert set(used) == {f"#{a['id']}" for a in read.all("image")}


def test_the_picture_shows_given_made_and_true(written):
    with Image.open(written[0] / "directions.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    top = picture._MARGIN + picture._HEADING + picture._CAPTION
    chosen = picture.choose([n for n in range(1, 12, 2)], 3)
    assert chosen == [3, 7, 11]
    sample = list(samples())[2]
    square = pixels[top : top + picture._SIDE, picture._MARGIN :][:, : picture._SIDE]
    width = round(12 * picture._SIDE / 16)
    left = (picture._SIDE - width) // 2
    expected = Image.fromarray(show("t1", sample["t1"])).resize(
        (width, picture._SIDE), Image.Resampling.LANCZOS
    )
    np.testing.assert_array_equal(square[:, left : left + width], expected)
    assert not square[:, :left].any()
    # Three directions below each other, each with ink in its heading.
    step = (len(pixels) - 2 * picture._MARGIN + picture._BELOW) // 3
    for row in range(3):
        heading = pixels[picture._MARGIN + row * step :][: picture._HEADING]
        assert (heading < 60).all(-1).any()


def test_as_many_samples_are_pictured_as_asked_for(tmp_path):
    widths = []
    for pictured in (1, 2):
        filled(pictured=pictured).write(tmp_path)
        with Image.open(tmp_path / "directions.png") as image:
            widths.append(image.width)
    block = 4 * (picture._SIDE + picture._GAP) - picture._GAP
    assert widths == [2 * picture._MARGIN + n * block + (n - 1) * picture._BETWEEN for n in (1, 2)]
    with pytest.raises(ValueError, match="at least 1"):
        Report(show, pictured=0)


def test_fewer_samples_than_asked_for():
    exhibits = list(range(2))
    assert picture.choose(exhibits, 3) == [0, 1]
    with pytest.raises(ValueError, match="no directions"):
        picture.sheet([], "4M")
    with pytest.raises(ValueError, match="no system"):
        Report(show).results()
    with pytest.raises(ValueError, match="at least 2"):
        Report(show, shown=1)


def test_no_array_of_a_batch_is_kept():
    batch = np.zeros((2, 4, 4, 3), np.uint8)
    report = Report(lambda name, value: value)
    report.add(CAPTION, "text", Case("a", "s", {"t1": batch[0]}, {"4M": "x"}, "x"))
    batch += 1
    [section] = report._sections.values()
    assert not section.exhibits[0].given["t1"].any()
    assert page.arrow(CAPTION) == "t1 → caption"
