"""All steps together, and the two files that tell of them."""

import base64
import dataclasses
import hashlib
import html.parser
import io
import json
import re
import sys
import types

import numpy as np
import pytest
from PIL import Image

from medjax.data.medical.conditioning import page, run
from medjax.data.medical.conditioning.settings import Settings
from medjax.data.medical.conditioning.step import Case, Report
from medjax.data.medical.record import Question
from medjax.errors import UserError

EVIL = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)> & %%title"
# The steps that look at images are tested on their own.
TEXTS = Settings(templates=True, overlays="keep", leaks="off", max_answer_tokens=8)
OFF = Settings(
    placeholders=False,
    beyond_slice=False,
    diagnosis_in_caption=False,
    max_answer_tokens=0,
    overlays="keep",
    leaks="off",
)


def dataset(record):
    """Ten patients of two images, with something to do for each step."""
    records = []
    for case in range(10):
        for image in range(2):
            id, diagnosis = f"c{case}i{image}", "Normal" if case % 2 else "Glioma"
            caption = ("A round mass.", "N/A", f"A {diagnosis}.", EVIL, "word " * 9)[case % 5]
            questions = (
                Question(f"{id}/caption", "caption", "", caption, form="caption"),
                Question(f"{id}/diagnosis", "diagnosis", "What is it?", diagnosis),
                Question(f"{id}/size", "open", "How large is it?", "3 cm"),
            )
            records.append(
                record(
                    id,
                    *questions,
                    patient=f"p{case}",
                    split=("train", "validation", "test")[max(case - 7, 0)],
                    diagnosis="Abscess" if case == 9 else diagnosis,
                    caption=caption,
                    plane="AX",
                    modality="MR - FLAIR",
                )
            )
    return records


@pytest.fixture
def fake(monkeypatch):
    """Puts a step in the place of one that looks at images."""

    def put(name, step):
        module = types.ModuleType(name)
        module.step = step
        monkeypatch.setitem(sys.modules, f"medjax.data.medical.conditioning.{name}", module)

    return put


def test_all_steps_run_in_order_and_count(record):
    records = dataset(record)
    done = run.condition(records, TEXTS, name="drawn")
    assert [report.name for report in done.reports] == [
        "placeholders", "beyond_slice", "max_answer_tokens", "diagnosis_in_caption", "templates",
        "unasked", "split", "unseen",
    ]  # fmt: skip
    assert done.off == ("languages", "overlays", "hash_distance", "leaks")
    assert len(done.sizes) == len(done.reports) + 1
    assert done.sizes[0] == run.Size(10, 20, 60)
    for report, before, after in zip(done.reports, done.sizes, done.sizes[1:], strict=False):
        added = sum(report.changed.values()) if report.name == "templates" else 0
        assert after.questions == before.questions - sum(report.dropped.values()) + added
    assert {report.name: dict(report.dropped) for report in done.reports if report.dropped} == {
        "placeholders": {"not available": 4},
        "beyond_slice": {"measurement": 20},
        "max_answer_tokens": {"more than 8 words and punctuation marks": 8},
        "diagnosis_in_caption": {"the caption names the diagnosis": 4},
    }
    assert {one.facts["seen"] for one in done.records if one.split == "test"} == {"unseen"}
    assert run.condition(records, TEXTS, name="drawn") == done


def test_an_image_without_a_question_is_in_no_part(record):
    chinese = Question("z", "open", "有肝脏吗?", "有", language="zh")
    records = [
        record("a", chinese, patient="1", split="train", modality="CT"),
        record("b", "liver", patient="1", split="test", modality="CT"),
        record("c", "spleen", patient="2", split="train", modality="CT"),
    ]
    english = Settings(languages=("en",), overlays="keep", leaks="off")
    done = run.condition(records, english, name="drawn")
    assert [left.id for left in done.records] == ["b", "c"]
    unasked, split = done.reports[-3:-1]
    assert (dict(unasked.dropped), unasked.unit) == ({"no question left": 1}, "images")
    assert [case.record.id for case in unasked.cases] == ["a"]
    assert split.warnings == ()  # the patient is in one part alone
    # What templates ask counts.
    asked = dataclasses.replace(english, templates=True)
    assert len(run.condition(records, asked, name="drawn").records) == 3


def test_off_means_off(record):
    records = dataset(record)
    done = run.condition(records, OFF, name="drawn")
    assert [report.name for report in done.reports] == ["unasked", "split", "unseen"]
    assert [one.questions for one in done.records] == [one.questions for one in records]
    assert run.condition([], TEXTS, name="none").records == ()


def test_steps_of_images_run_where_they_are_wanted(record, fake):
    seen = []

    def step_of(name):
        def step(records, settings):
            seen.append(name)
            return list(records), Report(name, "does", unit="images")

        return step

    for name in ("overlays", "hashes", "leaks"):
        fake(name, step_of(name))
    settings = dataclasses.replace(OFF, overlays="crop", leaks="warn")
    done = run.condition(dataset(record), settings, name="drawn")
    assert seen == ["overlays", "hashes", "leaks"]
    names = [report.name for report in done.reports]
    assert names == ["unasked", "overlays", "split", "hashes", "leaks", "unseen"]


def test_what_ends_the_build_can_still_be_shown(record, fake, tmp_path):
    def leaks(records, settings):
        error = UserError("12 leaks")
        error.report = Report("leaks", "Finds leaks.", warnings=("12 leaks",))
        raise error

    fake("leaks", leaks)
    fake("hashes", lambda records, settings: (list(records), Report("hash_distance", "Hashes.")))
    settings = dataclasses.replace(OFF, leaks="error")
    with pytest.raises(UserError, match="12 leaks") as info:
        run.condition(dataset(record), settings, name="drawn")
    page.write(tmp_path, info.value.conditioned)
    assert json.loads((tmp_path / page.FILES[0]).read_text())["steps"][-1]["warnings"]
    assert "12 leaks" in (tmp_path / page.FILES[1]).read_text()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(split="random"), r'split is .random.: set it to one of "published", "made"'),
        (Settings(leaks="ignore"), r"data\.conditioning\.leaks"),
        (Settings(max_answer_tokens=-1), r"max_answer_tokens is -1"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(UserError, match=message):
        run.condition([], settings, name="drawn")


def test_ids_must_be_unique(record):
    records = [record("a", "x", split="train"), record("a", split="train", where="f.json:2")]
    with pytest.raises(UserError, match=r"drawn: the id 'a' occurs twice \(f\.json:2\)"):
        run.condition(records, OFF, name="drawn")
    twice = Question("q", "open", "?", "x")
    records = [record(id, twice, split="train") for id in "ab"]
    with pytest.raises(UserError, match="the id 'q' occurs twice"):
        run.condition(records, OFF, name="drawn")


def test_the_summary_has_every_count_and_no_path(record, fake, tmp_path):
    def leaks(records, settings):
        key = records[0].image.key
        report = Report(
            "leaks",
            "Finds leaks.",
            figures={"pairs": [{"train": key, "test": "/other/folder/x.png"}]},
            cases=(Case(records[0], f"{key} twice", "same image"),),
            warnings=(f"{key} is a copy of /other/folder/x.png.",),
        )
        return list(records), report

    fake("leaks", leaks)
    fake("hashes", lambda records, settings: (list(records), Report("hashes", "Hashes.")))
    settings = dataclasses.replace(
        TEXTS,
        leaks="warn",
        question_tables=("/secret/place/table.csv",),
        against=("slake=/other/folder",),
    )
    done = run.condition(dataset(record), settings, name="drawn")
    page.write(tmp_path, done)
    for file in page.FILES:
        written = (tmp_path / file).read_text()
        assert "secret" not in written
        assert "/other" not in written
        assert "c0i0.png is a copy of x.png." in written
    text = (tmp_path / "conditioning.json").read_text()
    found = json.loads(text)
    assert found["settings"]["question_tables"] == ["table.csv"]
    assert found["before"] == {"patients": 10, "images": 20, "questions": 60}
    assert found["after"] == dataclasses.asdict(done.sizes[-1])
    parts = {part: (of["patients"], of["images"]) for part, of in found["parts"].items()}
    assert parts == {"train": (8, 16), "validation": (1, 2), "test": (1, 2)}
    assert found["settings"]["against"] == ["slake"]
    for step, report in zip(found["steps"], done.reports, strict=True):
        assert step["dropped"] == dict(report.dropped)
        if report.name != "leaks":
            assert step["figures"] == json.loads(json.dumps(report.figures))
        assert len(step["cases"]) == len(report.cases)
    assert found["steps"][-1]["figures"]["diagnosis"]["test"]["unseen_values"] == 1


class Reader(html.parser.HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag, **wanted):
        return [
            attributes
            for name, attributes in self.tags
            if name == tag and all(attributes.get(key) == value for key, value in wanted.items())
        ]


def test_the_page_shows_every_step_and_trusts_no_data(record, tmp_path):
    done = run.condition(dataset(record), TEXTS, name=f"drawn {EVIL}")
    text = page.render(done)
    read = Reader(text)
    sections = [attributes["id"] for attributes in read.all("section") if "id" in attributes]
    assert sections == [report.name for report in done.reports]
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 1
    assert "alert" not in scripts[0]
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert not read.all("img")
    assert EVIL in read.text
    uses = {attributes["href"] for attributes in read.all("use")}
    assert uses == {f"#{attributes['id']}" for attributes in read.all("image")}
    assert "Abscess" in read.text  # never in training
    assert read.all("svg", **{"aria-label": "histogram of the lengths of answers"})
    assert page.render(done) == text


def test_what_is_hidden_is_outlined_and_gone(record, fake, tmp_path):
    def overlays(records, settings):
        hidden = [dataclasses.replace(one, hidden=((0, 0, 10, 60),)) for one in records]
        shown = (Case(hidden[0], "", "watermark masked"),)
        return hidden, Report("overlays", "Hides.", unit="images", cases=shown)

    fake("overlays", overlays)
    settings = dataclasses.replace(OFF, overlays="mask", placeholders=True)
    done = run.condition(dataset(record), settings, name="drawn")
    read = Reader(page.render(done))
    rectangle = read.all("rect", **{"class": "hides"})[0]
    outline = {key: rectangle[key] for key in ("x", "y", "width", "height")}
    assert outline == {"x": "0.0", "y": "0.0", "width": "60.0", "height": "10.0"}
    tops = []
    for attributes in read.all("image"):
        data = base64.b64decode(attributes["href"].partition(",")[2])
        tops.append(int(np.asarray(Image.open(io.BytesIO(data)).convert("L"))[5].mean()))
    # Whatever step an image is an example of, names are hidden; once it is shown what was.
    assert sorted(tops)[-1] == pytest.approx(90, abs=2)
    assert len(tops) > 2
    assert all(top < 3 for top in sorted(tops)[:-1])


def test_pairs_stand_side_by_side_and_what_cannot_be_read_is_told(record, fake):
    def leaks(records, settings):
        broken = record("broken", pixels=False, split="test")
        pairs = (Case(records[0], "distance 3", "near-duplicate image", records[1]),
                 Case(broken, "", "same id"))  # fmt: skip
        return list(records), Report("leaks", "Finds leaks.", cases=pairs)

    fake("leaks", leaks)
    fake("hashes", lambda records, settings: (list(records), Report("hash_distance", "Hashes.")))
    done = run.condition(dataset(record), dataclasses.replace(OFF, leaks="warn"), name="drawn")
    text = page.render(done)
    pair = re.search(r'<li class="case pair">(.*?)</li>', text, re.DOTALL)[1]
    assert pair.count("<figure>") == 2
    assert "c0i0" in pair
    assert "c0i1" in pair
    assert '<p class="gone">missing image</p>' in text


def test_equal_input_gives_equal_bytes(record, tmp_path):
    for folder in ("a", "b"):
        page.write(tmp_path / folder, run.condition(dataset(record), TEXTS, name="drawn"))
    for file in page.FILES:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
