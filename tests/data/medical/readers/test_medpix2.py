import collections
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from medjax.data.faults import BadExample, FaultCounter
from medjax.data.medical.catalogue import dataset
from medjax.data.medical.readers.wordings import WORDINGS, worded
from medjax.data.medical.record import LONG_FACTS, SHORT_FACTS
from medjax.errors import UserError

MEDPIX = dataset("medpix2")


def _read(folder, policy="error"):
    counter = FaultCounter(policy)
    return list(MEDPIX.read(folder, counter)), counter


def _load(folder, name):
    return json.loads((folder / name).read_text())


@pytest.fixture
def copy(drawn_medpix, tmp_path):
    return shutil.copytree(drawn_medpix, tmp_path / "copy")


@pytest.fixture
def change(copy):
    """Writes one of the files anew, after a function has changed its content."""

    def apply(name, function):
        content = _load(copy, name)
        function(content)
        (copy / name).write_text(json.dumps(content))
        return copy

    return apply


def _of_image(record):
    """Its questions by task."""
    return {question.task: question for question in record.questions}


def test_every_description_is_a_record_with_what_its_case_says(drawn_medpix):
    records, counter = _read(drawn_medpix)
    rows = _load(drawn_medpix, "Descriptions.json")
    cases = {case["U_id"]: case for case in _load(drawn_medpix, "Case_topic.json")}
    lists = _load(drawn_medpix, "splitted_dataset/uid_list.json")
    assert not counter.counts
    assert [record.id for record in records] == [row["image"] for row in rows]
    assert len({record.patient for record in records}) == len(cases) == 8
    names = {"train": "train", "dev": "validation", "test": "test"}
    for index, (record, row) in enumerate(zip(records, rows, strict=True)):
        case = cases[row["U_id"]]
        assert record.patient == row["U_id"]
        assert record.facts["diagnosis"] == case["Case"]["Case Diagnosis"]
        assert record.facts["category"] == case["Topic"]["Category"]
        assert record.facts["type"] == row["Type"]
        assert record.facts["synpic"] == row["image"].split("synpic")[1]
        assert record.facts["age"] == row["Description"]["Age"]
        assert set(record.facts) <= {*SHORT_FACTS, *LONG_FACTS}
        assert all(record.facts.values())
        assert row["U_id"] in lists[next(k for k, v in names.items() if v == record.split)]
        assert record.where.endswith(f"Descriptions.json: record {index} (U_id {row['U_id']})")
    counts = collections.Counter(record.split for record in records)
    assert set(counts) == set(names.values())


def test_questions_are_answered_by_facts(drawn_medpix):
    records, _ = _read(drawn_medpix)
    answered_by = {"image_findings": "caption"}
    ids = [question.id for record in records for question in record.questions]
    assert len(set(ids)) == len(ids)
    for record in records:
        questions = _of_image(record)
        for task, question in questions.items():
            assert question.id == f"{record.id}/{task}"
            assert question.answer == record.facts[answered_by.get(task, task)]
            assert question.origin == "dataset"
            assert question.form == ("caption" if task == "caption" else "answer")
            assert (question.question == "") == (task == "caption")
            of_case = task in MEDPIX.variants["case"]
            assert question.mode == ("alignment" if of_case else "pre_training")
        for task in MEDPIX.variants["case"]:
            assert (task in questions) == (task in record.facts)
    asked = {q.task: q.question for record in records for q in record.questions}
    assert set(asked) - {"caption"} == set(WORDINGS)
    assert {task for tasks in MEDPIX.variants.values() for task in tasks} - {"table"} == set(asked)


def test_wordings_vary_with_the_image_and_are_always_the_same():
    asked = [worded("plane", f"image{i}") for i in range(40)]
    assert set(asked) == set(WORDINGS["plane"])
    # Not by a hash that differs from process to process.
    assert [WORDINGS["plane"].index(wording) for wording in asked[:8]] == [2, 1, 1, 1, 0, 1, 0, 1]


def test_the_authors_repository_may_be_given_whole(drawn_medpix, tmp_path):
    (tmp_path / "MedPix-2-0").symlink_to(drawn_medpix)
    assert len(_read(tmp_path)[0]) == len(_read(drawn_medpix)[0])


@pytest.mark.parametrize(
    ("key", "text", "fact"),
    [
        ("Sex", "N/A", "sex"),
        ("Plane", "NOS - Not specified", "plane"),
        ("Modality", None, "modality"),
        ("Age", "Not Listed", "age"),
        ("Caption", " n/a. ", "caption"),
    ],
)
def test_what_the_file_does_not_know_is_unknown(change, key, text, fact):
    folder = change("Descriptions.json", lambda rows: rows[3]["Description"].update({key: text}))
    record = _read(folder)[0][3]
    assert fact not in record.facts
    assert fact not in _of_image(record)


def test_nothing_known_of_a_case_leaves_its_images(change):
    def empty(cases):
        for key in list(cases[0]["Case"]):
            cases[0]["Case"][key] = None
        cases[0]["Topic"] = {"Title": None, "Category": "Unsure", "ACR Code": "-1.-1"}

    folder = change("Case_topic.json", empty)
    patient = _load(folder, "Case_topic.json")[0]["U_id"]
    records = [record for record in _read(folder)[0] if record.patient == patient]
    assert records
    for record in records:
        assert {"diagnosis", "category", "history", "title"}.isdisjoint(record.facts)
        assert "diagnosis" not in _of_image(record)


def test_stray_spaces_make_no_further_modality(drawn_medpix):
    rows = _load(drawn_medpix, "Descriptions.json")
    spaced = [i for i, row in enumerate(rows) if row["Description"]["Modality"].startswith(" ")]
    records, _ = _read(drawn_medpix)
    assert spaced
    for i in spaced:
        assert records[i].facts["modality"] == rows[i]["Description"]["Modality"][1:]


def test_locations_must_name_a_part_of_the_body(drawn_medpix, change, caplog):
    rows = _load(drawn_medpix, "Descriptions.json")
    assert {"Left Blank", "Bethesda, MD"} <= {row["Location"] for row in rows}
    records, counter = _read(drawn_medpix)
    found = {record.facts.get("location") for record in records}
    assert {"Left Blank", "Bethesda, MD"}.isdisjoint(found)
    assert None in found
    assert "'Bethesda, MD' (1)" in caplog.text
    assert not counter.counts
    # As MedPix has them.
    known = [
        "Genitourinary", "Chest, Pulmonary", "Head and Neck", "Brain and Neuro", "Cardiovascular",
        "Eye and Orbit", "Vascular", "Gastrointestinal", "Musculoskeletal", "Spine", "Endocrine",
        "Abdomen", "Generalized",
    ]  # fmt: skip
    towns = ["Bethesda, MD", "Cardiff", "Sacramento", "Palermo", "Tempe"]

    def relocate(rows):
        for row, location in zip(rows, known + towns, strict=False):
            row["Location"] = location

    records = _read(change("Descriptions.json", relocate))[0][: len(known + towns)]
    located = [record.facts.get("location") for record in records]
    assert len(located) > len(known)
    assert located == (known + [None] * len(towns))[: len(located)]


def test_placeholders_and_shared_captions_are_kept(drawn_medpix):
    records, _ = _read(drawn_medpix)
    captions = collections.Counter(record.facts.get("caption", "") for record in records)
    assert sum(caption.startswith("Replace this - DESCRIPTION") for caption in captions) == 1
    assert max(captions.values()) > 1


def test_transparent_parts_are_black(drawn_medpix):
    records, _ = _read(drawn_medpix)
    seen = 0
    for record in records:
        pixels = record.image.pixels()
        assert pixels.shape[2] == 3
        with Image.open(record.image.file.path) as image:
            if image.mode == "RGBA":
                values = np.asarray(image)
                opaque = values[..., 3] == 255
                assert (pixels[opaque] == values[opaque][:, :3]).all()
                assert (pixels[values[..., 3] == 0] == 0).all()
                seen += 1
    assert seen


def _pop(*keys):
    def function(rows):
        row = rows[2]
        for key in keys[:-1]:
            row = row[key]
        del row[keys[-1]]

    return function


def _put(value, *keys):
    def function(rows):
        row = rows[2]
        for key in keys[:-1]:
            row = row[key]
        row[keys[-1]] = value

    return function


@pytest.mark.parametrize(
    ("file", "damage", "reason", "message"),
    [
        ("Descriptions.json", _pop("image"), "missing key", '"image"'),
        ("Descriptions.json", _pop("Description"), "missing key", '"Description"'),
        ("Descriptions.json", _pop("Description", "Plane"), "missing key", '"Plane"'),
        ("Descriptions.json", _put(["CT"], "Description", "Modality"), "wrong type", '"Modality"'),
        ("Descriptions.json", _put("MPX1", "U_id"), "no case", "Case_topic.json has no case"),
        ("Descriptions.json", _put("\ud800", "Location"), "invalid text", '"Location"'),
        ("Case_topic.json", _pop("Topic"), "missing key", '"Topic"'),
        ("Case_topic.json", _pop("U_id"), "missing key", '"U_id"'),
        ("Case_topic.json", _put("none", "Case"), "wrong type", '"Case"'),
        ("Case_topic.json", _put("MPX1_synpic1", "TAC"), "wrong type", '"TAC"'),
    ],
)
def test_damage_is_named_by_file_and_record(change, file, damage, reason, message):
    name = change(file, lambda rows: None) / file
    known = json.loads(name.read_text())[2].get("U_id")
    folder = change(file, damage)
    with pytest.raises(BadExample, match=re.escape(message)) as fault:
        _read(folder)
    assert f"{file}: record 2" in str(fault.value)
    after = json.loads(name.read_text())[2].get("U_id")
    if after is not None:
        assert f"(U_id {after})" in str(fault.value)
    assert fault.value.reason == reason
    records, counter = _read(folder, "skip")
    assert counter.counts[reason] >= 1
    lost = known if file == "Case_topic.json" else None
    assert records
    assert all(record.patient != lost for record in records)


def test_a_record_that_is_no_object_is_named(change):
    folder = change("Descriptions.json", lambda rows: rows.insert(1, "nothing"))
    with pytest.raises(BadExample, match=r"record 1: the record is no JSON object: 'nothing'"):
        _read(folder)


@pytest.mark.parametrize("file", ["Descriptions.json", "Case_topic.json"])
def test_a_file_that_breaks_off_says_after_which_record(copy, file):
    rows = _load(copy, file)
    whole, three = json.dumps(rows), json.dumps(rows[:3])[:-1]
    assert whole.startswith(three)
    (copy / file).write_text(whole[: len(three) + 12])
    with pytest.raises(UserError, match="the JSON is damaged") as error:
        _read(copy)
    assert f"{copy / file}: record 3, after U_id {rows[2]['U_id']}" in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{}", "no JSON list"), (b"", "no JSON list"), (b"\xff[", "not UTF-8")],
)
def test_a_file_of_another_kind_is_refused(copy, content, message):
    (copy / "Descriptions.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        _read(copy)


@pytest.mark.parametrize("missing", ["Case_topic.json", "Descriptions.json", "folder images"])
def test_what_the_folder_lacks_is_said(copy, missing):
    path = copy / missing.removeprefix("folder ")
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match=f"has no {re.escape(missing)}.* It must hold Case_topic"):
        _read(copy)


def test_a_missing_image_is_named(copy):
    records, _ = _read(copy)
    path = copy / "images" / f"{records[1].id}.png"
    path.unlink()
    with pytest.raises(BadExample, match=re.escape(str(path))) as fault:
        _read(copy)
    assert records[1].where in str(fault.value)
    left, counter = _read(copy, "skip")
    assert [record.id for record in left] == [r.id for r in records if r.id != records[1].id]
    assert counter.counts == {"missing image": 1}


def test_images_without_a_description_are_named(change):
    removed = []
    folder = change("Descriptions.json", lambda rows: removed.append(rows.pop(0)))
    shutil.copy(next((folder / "images").glob("*.png")), folder / "images" / "MPX7_synpic7.png")
    records, counter = _read(folder, "skip")
    assert counter.counts == {"no description": 2}
    assert removed[0]["image"] not in [record.id for record in records]
    with pytest.raises(BadExample, match=f"does not describe the image {removed[0]['image']}") as f:
        _read(folder)
    assert f"(U_id {removed[0]['U_id']})" in str(f.value)


def test_ids_that_occur_twice_are_named(change):
    folder = change("Descriptions.json", lambda rows: rows.append(rows[1]))
    name = _load(folder, "Descriptions.json")[1]["image"]
    with pytest.raises(BadExample, match=f"the image {name} is that of record 1"):
        _read(folder)
    change("Case_topic.json", lambda cases: cases.append(cases[1]))
    records, counter = _read(folder, "skip")
    assert counter.counts == {"duplicate id": 2}
    assert len(records) == len(_load(folder, "Descriptions.json")) - 1


def test_an_image_of_another_case_is_named(change):
    def claim(cases):
        cases[1].setdefault("TAC", []).extend(cases[0]["TAC"] + cases[0]["MRI"])

    folder = change("Case_topic.json", claim)
    with pytest.raises(BadExample, match=r"Case_topic\.json has the image"):
        _read(folder)


def test_a_case_in_two_splits_is_named(change):
    path = "splitted_dataset/uid_list.json"
    folder = change(path, lambda lists: lists["test"].append(lists["train"][0]))
    case = _load(folder, path)["train"][0]
    with pytest.raises(BadExample) as fault:
        _read(folder)
    assert f"the case {case} is in train (uid_list.json: train) and test (uid_list.json: test)" in (
        str(fault.value)
    )
    assert "Descriptions.json: record" in str(fault.value)
    records, counter = _read(folder, "skip")
    assert case not in {record.patient for record in records}
    rows = _load(folder, "Descriptions.json")
    assert counter.counts == {"case in two splits": sum(row["U_id"] == case for row in rows)}


def test_splits_are_also_read_from_the_lines_alone(copy):
    expected = [record.split for record in _read(copy)[0]]
    (copy / "splitted_dataset" / "uid_list.json").unlink()
    assert [record.split for record in _read(copy)[0]] == expected
    moved = (copy / "splitted_dataset" / "data_test.jsonl").read_text()
    (copy / "splitted_dataset" / "data_dev.jsonl").write_text(moved)
    with pytest.raises(BadExample, match=r"data_dev.jsonl:1\) and test \(data_test.jsonl:1\)"):
        _read(copy)
    shutil.rmtree(copy / "splitted_dataset")
    assert {record.split for record in _read(copy)[0]} == {""}


@pytest.mark.parametrize(
    ("content", "message"),
    [("[", "is not JSON"), ("[]", "no JSON object"), ('{"train": "MPX1"}', '"train" is no list'),
     ('{"holdout": []}', "'holdout' is none of the parts")],
)  # fmt: skip
def test_a_damaged_list_of_splits_is_refused(copy, content, message):
    (copy / "splitted_dataset" / "uid_list.json").write_text(content)
    with pytest.raises(UserError, match=message):
        _read(copy)


def test_a_damaged_line_of_a_split_is_named(copy):
    path = copy / "splitted_dataset" / "data_test.jsonl"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(UserError, match=r"data_test\.jsonl:\d+: the line is not JSON"):
        _read(copy)
