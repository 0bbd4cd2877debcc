import base64
import dataclasses
import hashlib
import html.parser
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from medjax.data.example import Example
from medjax.evaluation import html as page
from medjax.evaluation import pages, table
from medjax.evaluation.predictions import from_example
from medjax.thumbnails import thumbnails

EVIL = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)> & %%title </li> 脳 ‮ \ud83e"
TRUE = "<loc0000><loc0102><loc0512><loc1023> brain"
SAID = "<loc0000><loc0000><loc1023><loc1023> <b>brain</b>"


def images():
    random = np.random.default_rng(0)
    grey = np.repeat(random.integers(0, 256, (30, 40, 1), np.uint8), 3, -1)
    pixels = {"grey": grey, EVIL: random.integers(0, 256, (600, 300, 3), np.uint8)}
    return thumbnails(pixels, {"grey": 3, EVIL: 1})


def asked():
    pixels = np.zeros((1, 1, 3), np.uint8)
    return [
        Example("first/0", pixels, "which plane?", "axial", "grey", {"task": "plane", "slab": "a"}),
        Example(EVIL, pixels, EVIL, EVIL, EVIL, {"task": EVIL, "slab": "b"}),
        Example("box", pixels, "detect brain", TRUE, "grey", {"task": "detect", "slab": "c"}),
        Example("open", pixels, "anything else?", "", "grey", {"task": "other", "slab": "c"}),
    ]


def answered(said, **options):
    return [from_example(e, text, **options) for e, text in zip(asked(), said, strict=True)]


class Reader(html.parser.HTMLParser):
    """Collects elements with their attributes, the text outside scripts and styles, and data."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self._quiet = [], "", False
        self.blocks, self._block = {}, ""  # texts of blocks of data by id
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._quiet = tag in ("script", "style")
        self._block = dict(attributes).get("id", "") if tag == "script" else ""

    def handle_endtag(self, tag):
        self._quiet = self._quiet and tag not in ("script", "style")

    def handle_data(self, data):
        if not self._quiet:
            self.text += data
        elif self._block:
            self.blocks[self._block] = self.blocks.get(self._block, "") + data

    @property
    def data(self):
        return json.loads(self.blocks["data"])

    def all(self, tag, **wanted):
        return [a for t, a in self.elements if t == tag and wanted.items() <= a.items()]


@pytest.fixture
def systems():
    return {
        "base": answered(["coronal", "no", SAID, "?"]),
        "tuned <i>": answered(["Axial.", EVIL, TRUE, ""], log_prob=-0.5, num_tokens=2),
    }


@pytest.fixture
def rendered(systems):
    return page.render(systems, images(), title=EVIL, summary=table.results(systems))


def test_untrusted_text_makes_no_elements(rendered):
    read = Reader(rendered)
    scripts = read.all("script")
    assert [a.get("type") for a in scripts] == ["application/json"] * 3 + [None]
    assert not [tag for tag, _ in read.elements if tag in ("img", "i", "b", "li")]
    attributes = {name for _, found in read.elements for name in found}
    assert not any(name.startswith("on") for name in attributes)
    shown = EVIL.replace("\ud83e", "?")
    assert shown in read.text  # the title
    assert read.all("option", value=shown)
    row = read.data["rows"][1]
    assert [row[key] for key in ("id", "task", "question", "truth")] == [shown] * 3 + [[shown]]
    assert row["answers"][1]["said"] == [shown]
    # As little as the characters that could end a block of data is in one.
    assert not re.search("[<>&]", read.blocks["data"])


def test_only_the_page_own_script_may_run(rendered):
    script = re.search(r"<script>(.*?)</script>", rendered, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    [policy] = [a for a in Reader(rendered).all("meta") if "http-equiv" in a]
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert f"script-src 'sha256-{digest}'" in policy["content"]
    assert "default-src 'none'" in policy["content"]


def test_data_are_put_in_as_text_alone(rendered):
    script = re.search(r"<script>(.*?)</script>", rendered, re.DOTALL)[1]
    assert not re.search("innerHTML|outerHTML|insertAdjacentHTML|document.write|eval", script)


def test_nothing_is_loaded_from_elsewhere(rendered):
    read = Reader(rendered)
    assert not [a[k] for _, a in read.elements for k in ("href", "src") if k in a]
    uris = [json.loads(text) for name, text in read.blocks.items() if name != "data"]
    assert len(uris) == 2
    assert all(uri.startswith("data:image/") for uri in uris)
    assert "url(" not in rendered
    assert "@import" not in rendered


def test_every_example_is_there_once(rendered):
    read = Reader(rendered)
    rows = read.data["rows"]
    assert read.data["systems"] == ["base", "tuned <i>"]
    assert [row["id"] for row in rows][::2] == ["first/0", "box"]
    assert [[a["verdict"] for a in row["answers"]] for row in rows] == [
        ["wrong", "correct"],
        ["wrong", "correct"],
        ["wrong", "correct"],
        ["unscored", "unscored"],
    ]
    assert [a["main"] for a in rows[2]["answers"]][1] == 1.0
    assert [a["main"] for a in rows[3]["answers"]] == [None, None]
    assert [a["confidence"] for a in rows[0]["answers"]] == [None, 0.778801]  # exp(-0.25)
    assert [metric["name"] for metric in read.data["metrics"]] == ["exact match", "IoU"]
    assert rows[2]["answers"][1]["scores"] == [None, 1.0]
    assert [row["kind"] for row in rows] == ["question", "question", "detection", "question"]
    assert read.data["marks"]["detection"]["wrong"] == "✗ missed"
    assert "Not a medical device" in read.text


def test_each_image_is_embedded_once(rendered):
    read = Reader(rendered)
    assert rendered.count("data:image/") == 2
    assert [row["image"] for row in read.data["rows"]] == [0, 1, 0, 0]
    files = [json.loads(read.blocks[f"image{i}"]).split(",")[1] for i in range(2)]
    grey, large = (Image.open(io.BytesIO(base64.b64decode(file))) for file in files)
    assert (grey.size, grey.mode) == ((40, 30), "L")
    assert large.size == (224, 448)
    sizes = [(image["width"], image["height"]) for image in read.data["images"]]
    assert sizes == [grey.size, large.size]


def test_lossless_where_that_is_smaller():
    flat = np.full((50, 50, 3), 7, np.uint8)
    flat[10:20, 10:20] = 200
    uri, width, height = pages.data_uri(flat, 448)
    assert uri.startswith("data:image/png")
    assert (width, height) == (50, 50)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))
    np.testing.assert_array_equal(pixels, flat[..., 0])


def test_boxes_are_where_they_are(rendered):
    row = Reader(rendered).data["rows"][2]
    [[*place, label]] = row["boxes"]
    assert place == pytest.approx([0, 102 / 1023, 512 / 1023, 1], abs=1e-6)  # y1, x1, y2, x2
    assert label == "brain"
    assert [len(answer["boxes"]) for answer in row["answers"]] == [1, 1]
    assert row["truth"][1::2] == TRUE.split(" ")[0].replace("><", "> <").split()
    assert row["truth"][-1] == " brain"
    assert 'class="legend"' in rendered


def test_patients_and_short_facts_are_shown():
    def asked_of(patient, **extra):
        example = Example("1", None, "which plane?", "axial", "grey", {"task": "plane"} | extra)
        example.extra.update({"patient": patient} if patient else {})
        return from_example(example, "axial")

    facts = [{"seen": "seen", "plane": "axial", "age": np.float32(41)}, {"caption": "a" * 500}]
    predictions = [asked_of("P1", **facts[0]), asked_of("", seen="unseen", **facts[1])]
    predictions = [dataclasses.replace(p, id=str(i)) for i, p in enumerate(predictions)]
    data = Reader(page.render(predictions, images())).data
    assert data["patient"] == "patient"
    assert [row["patient"] for row in data["rows"]] == ["P1", ""]
    # The known ones first; one value alone is nothing to filter by; long texts are left out.
    assert data["facts"] == [
        {"name": "plane", "choices": []},
        {"name": "seen", "choices": ["seen", "unseen"]},
        {"name": "age", "choices": []},
    ]
    assert [row["facts"] for row in data["rows"]] == [["axial", "seen", "41"], ["", "unseen", ""]]


def test_no_boxes_no_legend_and_one_system_no_choice():
    said = answered(["a", "b", "c", "d"])[:2]
    read = Reader(page.render(said, images()))
    assert not read.all("div", **{"class": "legend"})
    assert "hidden" in read.all("label")[0]
    assert not read.all("table")


def test_the_table_is_on_top(rendered, systems):
    read = Reader(rendered)
    cells = read.all("td", **{"data-name": "tuned <i>"})
    assert len(cells) == len(table.results(systems).rows)
    assert "tuned <i> − base" in read.text
    assert rendered.index("<table>") < rendered.index('id="rows"')


def test_a_cut_question_is_marked():
    said = answered(["a", "b", "c", "d"])
    cut = [said[0], *answered(["a", "b", "c", "d"], truncated=True)[1:]]
    rows = Reader(page.render(cut, images())).data["rows"]
    assert [row["answers"][0]["truncated"] for row in rows] == [False, True, True, True]


def test_the_file_is_utf8(tmp_path, systems):
    path = tmp_path / "predictions.html"
    page.write_html(path, systems, images(), title="Gehirn 脳")
    assert "Gehirn 脳" in path.read_bytes().decode("utf-8")
    assert '<meta charset="utf-8">' in path.read_text("utf-8")
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.html"]


def test_what_does_not_fit_is_refused(systems):
    with pytest.raises(ValueError, match="1 images are missing, such as 'grey'"):
        page.render(systems, {k: v for k, v in images().items() if k != "grey"})
    with pytest.raises(ValueError, match="different examples"):
        page.render({"a": systems["base"], "b": systems["base"][:2]}, images())
    with pytest.raises(ValueError, match="no system"):
        page.render({}, images())
