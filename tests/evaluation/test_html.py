import base64
import hashlib
import html.parser
import io
import re

import numpy as np
import pytest
from PIL import Image

from medjax.data.example import Example
from medjax.evaluation import html as page
from medjax.evaluation import pages, table
from medjax.evaluation.predictions import from_example

EVIL = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)> & %%title </li> 脳 ‮ \ud83e"
TRUE = "<loc0000><loc0102><loc0512><loc1023> brain"
SAID = "<loc0000><loc0000><loc1023><loc1023> <b>brain</b>"


def images():
    random = np.random.default_rng(0)
    grey = np.repeat(random.integers(0, 256, (30, 40, 1), np.uint8), 3, -1)
    return {"grey": grey, EVIL: random.integers(0, 256, (600, 300, 3), np.uint8)}


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
    """Collects elements with their attributes, and the text outside scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self._quiet = [], "", False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._quiet = tag in ("script", "style")

    def handle_endtag(self, tag):
        self._quiet = self._quiet and tag not in ("script", "style")

    def handle_data(self, data):
        if not self._quiet:
            self.text += data

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
    assert len(read.all("script")) == 1
    assert not [tag for tag, _ in read.elements if tag in ("img", "i", "b")]
    assert len(read.all("li")) == 4
    attributes = {name for _, found in read.elements for name in found}
    assert not any(name.startswith("on") for name in attributes)
    shown = EVIL.replace("\ud83e", "?")
    assert read.text.count(shown) >= 4  # title, question, answer, truth
    assert read.all("li", id="row2")[0]["data-id"] == shown
    assert read.all("option", value=shown)


def test_only_the_page_own_script_may_run(rendered):
    script = re.search(r"<script>(.*?)</script>", rendered, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    [policy] = [a for a in Reader(rendered).all("meta") if "http-equiv" in a]
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert f"script-src 'sha256-{digest}'" in policy["content"]
    assert "default-src 'none'" in policy["content"]


def test_nothing_is_loaded_from_elsewhere(rendered):
    read = Reader(rendered)
    links = [a[k] for _, a in read.elements for k in ("href", "src") if k in a]
    assert links
    assert all(link.startswith(("data:image/", "#")) for link in links)
    assert "url(" not in rendered
    assert "@import" not in rendered


def test_every_example_is_there_once(rendered):
    rows = Reader(rendered).all("li")
    assert [row["data-id"] for row in rows][::2] == ["first/0", "box"]
    assert [row["data-verdicts"] for row in rows] == [
        "wrong correct",
        "wrong correct",
        "wrong correct",
        "unscored unscored",
    ]
    assert rows[2]["data-scores"].split()[1] == "1"
    assert rows[3]["data-scores"] == "- -"
    assert rows[0]["data-confidences"] == "- 0.778801"  # exp(-0.25)
    text = Reader(rendered).text
    assert "✓ correct" in text
    assert "✗ wrong" in text
    assert "✗ missed" in text
    assert "– not scored" in text
    assert "no answer" in text
    assert "Not a medical device" in text


def test_each_image_is_embedded_once(rendered):
    read = Reader(rendered)
    embedded = {a["id"]: a for a in read.all("image")}
    assert len(embedded) == 2
    assert rendered.count("data:image/") == 2
    assert [a["href"] for a in read.all("use")] == ["#image0", "#image1", "#image0", "#image0"]
    grey = Image.open(io.BytesIO(base64.b64decode(embedded["image0"]["href"].split(",")[1])))
    large = Image.open(io.BytesIO(base64.b64decode(embedded["image1"]["href"].split(",")[1])))
    assert (grey.size, grey.mode) == ((40, 30), "L")
    assert large.size == (224, 448)
    assert (embedded["image1"]["width"], embedded["image1"]["height"]) == ("224", "448")


def test_lossless_where_that_is_smaller():
    flat = np.full((50, 50, 3), 7, np.uint8)
    flat[10:20, 10:20] = 200
    uri, width, height = pages.data_uri(flat, 448)
    assert uri.startswith("data:image/png")
    assert (width, height) == (50, 50)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))
    np.testing.assert_array_equal(pixels, flat[..., 0])


def test_boxes_are_drawn_where_they_are(rendered):
    read = Reader(rendered)
    [truth] = read.all("rect", **{"class": "box truth"})
    # The image is 40 wide and 30 high; bins count in 1023rds.
    place = [float(truth[k]) for k in ("x", "y", "width", "height")]
    assert place == pytest.approx([40 * 102 / 1023, 0, 40 * 921 / 1023, 30 * 512 / 1023], abs=0.05)
    guessed = read.all("rect", **{"class": "box guess"})
    assert [g["width"] for g in guessed] == ["40.0", "36.0"]
    groups = [a["class"] for a in read.all("g")]
    assert groups == ["of of0", "of of1"]
    assert 'body:not([data-system="0"]) .of0{display:none}' in rendered
    assert 'class="legend"' in rendered


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
    assert rendered.index("<table>") < rendered.index('<ol class="rows"')


def test_a_cut_question_is_marked():
    said = answered(["a", "b", "c", "d"])
    assert "question cut" not in page.render(said, images())
    cut = [said[0], *answered(["a", "b", "c", "d"], truncated=True)[1:]]
    assert page.render(cut, images()).count("question cut") == 3


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
