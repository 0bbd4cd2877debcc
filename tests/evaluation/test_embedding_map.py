import base64
import hashlib
import html.parser
import re

import numpy as np
import pytest
from PIL import Image

from medjax.errors import UserError
from medjax.evaluation import embedding_map as maps
from medjax.evaluation import embedding_page

EVIL = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)> & %%title"
MODALITIES = ("t1", "caption", EVIL)
COUNT = 16


def points(shared=1.0, gap=0.0, seed=0):
    """Samples of four levels whose features are their level's, with a gap between modalities."""
    random = np.random.default_rng(seed)
    of_level, of_modality = random.normal(size=(4, 12)), random.normal(size=(3, 12))
    features, modalities, levels, ids, thumbnails = [], [], [], [], []
    for index, name in enumerate(MODALITIES):
        for sample in range(COUNT):
            level = sample % 4
            noise = random.normal(size=12)
            features.append(
                shared * of_level[level] + gap * of_modality[index] + 0.3 * noise
            )  # fmt: skip
            modalities.append(name)
            levels.append(level)
            ids.append(f"sample {sample}")
            picture = np.full((4, 6, 3), 10 * sample, np.uint8)
            thumbnails.append(picture if name == "t1" else EVIL)
    return maps.Points(np.array(features, np.float32), modalities, levels, ids, thumbnails)


@pytest.mark.parametrize("method", maps.METHODS)
def test_equal_seeds_give_equal_maps_in_which_levels_lie_together(method):
    data = points()
    plane = maps.project(maps.directions(data), method, seed=3)
    assert plane.shape == (3 * COUNT, 2)
    np.testing.assert_array_equal(plane, maps.project(maps.directions(data), method, seed=3))
    np.testing.assert_allclose(plane.mean(0), 0.0, atol=1e-4)
    levels = np.array(data.levels)
    distance = np.linalg.norm(plane[:, None] - plane, axis=-1)
    same = levels[:, None] == levels
    assert distance[same].mean() < 0.6 * distance[~same].mean()


def test_agreement_is_counted_point_by_point():
    data = points(shared=0.5, gap=0.7)
    found = maps.agreement(data, k=3)
    unit = data.features / np.linalg.norm(data.features, axis=1, keepdims=True)
    shares = []
    for i in range(len(unit)):
        for name in MODALITIES:
            if name == data.modalities[i]:
                continue
            others = [
                j for j in range(len(unit))
                if data.modalities[j] == name and data.ids[j] != data.ids[i]
            ]  # fmt: skip
            nearest = sorted(others, key=lambda j: float(((unit[i] - unit[j]) ** 2).sum()))[:3]
            shares.append(np.mean([data.levels[j] == data.levels[i] for j in nearest]))
    assert found.precision == pytest.approx(np.mean(shares))
    assert found.chance == pytest.approx(3 / 15)  # four of a level, less the sample itself
    assert len(found.pairs) == 6
    of_pairs = np.mean([precision for precision, _ in found.pairs.values()])
    assert of_pairs == pytest.approx(found.precision)


def test_agreement_knows_features_from_noise_and_gaps_from_features():
    assert maps.agreement(points(), k=3).precision > 0.8
    noise = [maps.agreement(points(shared=0.0, seed=seed)) for seed in range(5)]
    assert abs(np.mean([a.precision - a.chance for a in noise])) < 0.08
    gap = points(shared=0.25, gap=20.0)
    centred = maps.agreement(gap, centred=True).precision
    assert centred > maps.agreement(gap).precision + 0.1
    moved = points(shared=0.25, gap=0.0)
    assert centred == pytest.approx(maps.agreement(moved, centred=True).precision)


def test_more_neighbours_than_there_are():
    data = points()
    found = maps.agreement(data, k=99)
    assert found.precision == pytest.approx(found.chance)


def test_what_makes_no_map():
    data = points()
    with pytest.raises(UserError, match="none of tsne, pca"):
        maps.project(data.features, "umap")
    with pytest.raises(UserError, match="7 points"):
        maps.project(data.features[:7])
    with pytest.raises(UserError, match="same features"):
        maps.project(np.ones((9, 3)))
    bad = maps.Points(np.full((1, 2), np.nan), ["a"], [0], ["x"], [""])
    with pytest.raises(UserError, match="finite"):
        maps.directions(bad)
    with pytest.raises(UserError, match="two modalities"):
        maps.agreement(bad)
    with pytest.raises(ValueError, match="names"):
        maps.Points(np.zeros((2, 2)), ["a"], [0], ["x"], [""])


def test_levels_are_ordered_and_look_so():
    data = maps.Points(np.zeros((4, 2)), ["a"] * 4, [10, "x", 9, "b"], ["x"] * 4, [""] * 4)
    assert data.level_names == [9, 10, "b", "x"]
    colours = maps.level_colours(6)
    assert len(set(colours)) == 6
    light = [sum(bytes.fromhex(colour[1:])) for colour in colours]
    assert light == sorted(light)
    styles = {maps.modality_style(index) for index in range(35)}
    assert len(styles) == 35


def test_the_picture_has_both_panels(tmp_path):
    data = points()
    plane = maps.project(maps.directions(data), "pca")
    maps.write_png(tmp_path / "map.png", data, plane, level="height")
    with Image.open(tmp_path / "map.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    left, right = np.split(pixels[:, : pixels.shape[1] // 2 * 2], 2, axis=1)
    for half, wanted, other in (
        (left, maps.MODALITY_COLOURS[0], maps.level_colours(4)[3]),
        (right, maps.level_colours(4)[3], maps.MODALITY_COLOURS[0]),
    ):
        assert (half == list(bytes.fromhex(wanted[1:]))).all(-1).sum() > 50
        assert not (half == list(bytes.fromhex(other[1:]))).all(-1).any()


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

    def all(self, tag, style=""):
        found = [attributes for name, attributes in self.elements if name == tag]
        return [a for a in found if not style or style in a.get("class", "").split(" ")]


def test_the_page_tells_of_every_point_and_trusts_none(tmp_path):
    data = points()
    plane = maps.project(maps.directions(data), "pca")
    path = tmp_path / "map.html"
    embedding_page.write_page(path, data, plane, title=EVIL, level=EVIL, notes=[EVIL])
    text = path.read_text("utf-8")
    read = Reader(text)
    assert len(read.all("script")) == 1
    assert not any(name.startswith("on") for _, found in read.elements for name in found)
    assert [a["src"][:15] for a in read.all("img")] == ["data:image/png;"] * COUNT
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert len([a for a in read.all("li") if "data-id" in a]) == 3 * COUNT
    # Each of the two maps has each point, with its modality and level, where it lies.
    marks = [a for a in read.all("use") if "transform" in a]
    assert len(marks) == 2 * 3 * COUNT
    assert marks[: 3 * COUNT] == marks[3 * COUNT :]
    assert [a["class"] for a in marks[COUNT - 1 : COUNT + 2]] == ["m0 l3", "m1 l0", "m1 l1"]
    places = np.array([re.findall(r"[-\d.]+", a["transform"]) for a in marks[: 3 * COUNT]], float)
    assert places.min() >= 19.9
    assert places.max() <= 580.1
    scale = np.polyfit(plane[:, 0], places[:, 0], 1)[0]
    assert np.polyfit(plane[:, 1], places[:, 1], 1)[0] == pytest.approx(-scale, rel=1e-2)
    # What can be switched: three modalities and four levels, by buttons.
    toggles = read.all("button", "toggle")
    assert [a["data-hides"] for a in toggles] == ["m0", "m1", "m2", "l0", "l1", "l2", "l3"]
    assert {a["aria-pressed"] for a in toggles} == {"true"}
    assert [a["tabindex"] for a in read.all("svg", "map")] == ["0", "0"]
