import logging

import pytest
from reader_files import faults, pair, png, read, write_image, write_json, write_parquet

from medjax.errors import UserError

CASE = "https://medpix.nlm.nih.gov/case?id=00000000-aaaa-4000-8000-000000000001"
ROW = {
    "qid": 0,
    "phrase_type": "freeform",
    "qid_linked_id": "03f451ca-de62-4617-9679-e836026a7642",
    "image_case_url": CASE,
    "image_name": "synpic54610.jpg",
    "image_organ": "HEAD",
    "evaluation": "not evaluated",
    "question": "Are regions of the brain infarcted?",
    "question_rephrase": "NULL",
    "question_relation": "NULL",
    "question_frame": "NULL",
    "question_type": "PRES",
    "answer": "Yes",
    "answer_type": "CLOSED",
}


def _write(folder, *rows):
    write_image(folder / "VQA_RAD Image Folder" / "synpic54610.jpg", 10)
    write_image(folder / "VQA_RAD Image Folder" / "synpic29265.jpg", 20)
    write_json(folder / "VQA_RAD Dataset Public.json", list(rows))
    return folder


def test_rows_become_records_by_image_and_part(tmp_path):
    rows = (
        ROW,
        ROW | {"qid": 1, "question": "How many?", "answer": 4, "answer_type": "OPEN"},
        ROW | {"qid": 2, "question": "Which side?", "answer": "left", "phrase_type": "test_para",
               "answer_type": "OPEN", "question_type": "POS, ABN"},
        ROW | {"qid": 3, "image_name": "synpic29265.jpg", "image_organ": "ABD", "answer": " No ",
               "image_case_url": CASE[:-1] + "2&x=1", "phrase_type": "test_freeform"},
    )  # fmt: skip
    head, tested, abdomen = read("vqa_rad", _write(tmp_path, *rows))
    assert [head.id, tested.id, abdomen.id] == [
        "train/synpic54610", "test/synpic54610", "test/synpic29265",
    ]  # fmt: skip
    assert [r.split for r in (head, tested, abdomen)] == ["train", "test", "test"]
    # The image is in both parts: the leak check finds it by its case.
    assert head.patient == tested.patient == "00000000-aaaa-4000-8000-000000000001"
    assert abdomen.patient == "00000000-aaaa-4000-8000-000000000002"
    assert head.facts == {"location": "head", "synpic": "54610"}
    assert abdomen.facts == {"location": "abdomen", "synpic": "29265"}
    assert head.image.read() == png(10)
    assert [(q.id, q.task, q.answer) for q in head.questions] == [
        ("train/0", "closed", "Yes"), ("train/1", "open", "4"),
    ]  # fmt: skip
    assert tested.questions[0].facts == {
        "answer_type": "open", "phrase_type": "test_para", "question_type": "ABN, POS",
    }  # fmt: skip
    assert abdomen.questions[0].answer == "No"


def test_stray_spaces_and_spellings(tmp_path):
    rows = (
        ROW | {"answer_type": "CLOSED ", "phrase_type": " freeform", "question_type": "pres,PRES"},
        ROW | {"qid": 1, "question": "Which?", "answer": "grey", "answer_type": " open",
               "question_type": "ATRIB"},
    )  # fmt: skip
    (record,) = read("vqa_rad", _write(tmp_path, *rows))
    closed, opened = record.questions
    assert (closed.task, closed.facts["question_type"]) == ("closed", "PRES")
    assert (opened.task, opened.facts["question_type"]) == ("open", "ATTRIB")


def test_repeated_pairs_are_kept_once_and_in_the_test_part(tmp_path, caplog):
    rows = (
        ROW,
        ROW | {"qid": 1, "question": "are regions of the  brain infarcted?", "answer": "yes"},
        ROW | {"qid": 2, "question": "Is it axial?"},
        ROW | {"qid": 3, "question": "Is it axial?", "phrase_type": "test_freeform"},
        ROW | {"qid": 4, "image_name": "synpic29265.jpg"},
    )
    with caplog.at_level(logging.WARNING):
        records = read("vqa_rad", _write(tmp_path, *rows))
    kept = {record.id: [q.id for q in record.questions] for record in records}
    assert kept == {
        "train/synpic54610": ["train/0"],
        "test/synpic54610": ["test/3"],
        "train/synpic29265": ["train/4"],
    }
    assert "2 pairs of question and answer twice" in caplog.text


def test_an_id_that_two_questions_have_stays_unique(tmp_path):
    rows = (ROW, ROW | {"question": "Is it axial?"})
    (record,) = read("vqa_rad", _write(tmp_path, *rows))
    assert [q.id for q in record.questions] == ["train/0", "train/0-2"]


def test_older_files_of_two_parts(tmp_path):
    write_image(tmp_path / "images" / "synpic54610.jpg", 10)
    write_json(tmp_path / "trainset.json", [ROW])
    tested = ROW | {"qid": 9, "phrase_type": "test_para", "question": "Is it axial?"}
    write_json(tmp_path / "testset.json", [tested])
    assert [r.id for r in read("vqa_rad", tmp_path)] == ["train/synpic54610", "test/synpic54610"]


def test_two_copies_of_the_file_are_an_error(tmp_path):
    _write(tmp_path, ROW)
    write_json(tmp_path / "VQA_RAD_Dataset.json", [ROW])
    with pytest.raises(UserError, match=r"VQA_RAD_Dataset\.json and .*Public\.json: keep one"):
        read("vqa_rad", tmp_path)


def test_parquet_rows_of_one_image_are_one_record(tmp_path):
    write_parquet(
        tmp_path / "data" / "train-00000-of-00001-eb8844602202be60.parquet",
        [pair(10, "is it axial?", "yes"), pair(20, "which organ?", "the liver"),
         pair(10, "how many?", "3")],
    )  # fmt: skip
    write_parquet(
        tmp_path / "data" / "test-00000-of-00001.parquet", [pair(10, "is there gas?", "No")]
    )
    first, second, tested = read("vqa_rad", tmp_path)
    assert [(q.question, q.answer, q.task) for q in first.questions] == [
        ("is it axial?", "yes", "closed"), ("how many?", "3", "open"),
    ]  # fmt: skip
    assert second.image.read() == png(20)
    assert (second.image.pixels() == 20).all()
    assert (first.split, tested.split) == ("train", "test")
    # The same bytes are one image, which the leak check must find in both parts.
    assert first.patient == tested.patient != second.patient
    assert first.id.split("/")[1] == tested.id.split("/")[1]
    assert tested.questions[0].facts == {"answer_type": "closed"}


@pytest.mark.parametrize(
    ("change", "reason", "message"),
    [
        ({"answer_type": "MAYBE"}, "unknown answer_type", '"answer_type" is .MAYBE.'),
        ({"answer": "  "}, "empty answer", "the answer is empty"),
        ({"question": ""}, "empty question", "the question is empty"),
        ({"image_name": "synpic1.jpg"}, "missing image", r"synpic1\.jpg does not exist"),
        ({"phrase_type": "other"}, "unknown phrase_type", '"phrase_type" is .other.'),
        ({"answer": ["yes"]}, "wrong type", '"answer" of the record is'),
        ({"answer": None}, "wrong type", '"answer" of the record is'),
    ],
)
def test_damage_is_named_by_file_and_record(tmp_path, change, reason, message):
    bad = ROW | {"qid": 7} | change
    folder = _write(tmp_path, ROW, bad)
    with pytest.raises(UserError, match=rf"Public\.json: record 1, qid 7: .*{message}"):
        read("vqa_rad", folder)
    assert faults("vqa_rad", folder) == {reason: 1}
    assert len(read("vqa_rad", folder, "skip")) == 1


def test_missing_key_and_broken_json(tmp_path):
    bad = {key: value for key, value in ROW.items() if key != "image_name"}
    with pytest.raises(UserError, match=r'record 0, qid 0: .*lacks the key "image_name"'):
        read("vqa_rad", _write(tmp_path, bad))
    path = tmp_path / "VQA_RAD Dataset Public.json"
    path.write_text(path.read_text()[:-9])
    with pytest.raises(UserError, match=r"Public\.json: record 0: the JSON is damaged"):
        read("vqa_rad", tmp_path)


def test_damaged_parquet(tmp_path):
    path = tmp_path / "train-00000-of-00001.parquet"
    good = pair(10, "is it axial?", "yes")
    write_parquet(
        path, [good, pair(None, "is it?", "no"), pair(10, "why?", " "), pair(10, "", "a")]
    )
    assert faults("vqa_rad", tmp_path) == {
        "missing image": 1, "empty answer": 1, "empty question": 1,
    }  # fmt: skip
    with pytest.raises(UserError, match=r"train-00000-of-00001\.parquet, row 1: there is no image"):
        read("vqa_rad", tmp_path)
    write_parquet(path, [{"image": good["image"], "question": "q"}])
    with pytest.raises(UserError, match="lacks the column 'answer': it has 'image', 'question'"):
        read("vqa_rad", tmp_path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match="can't be read"):
        read("vqa_rad", tmp_path)


def test_an_empty_folder_says_what_it_must_hold(tmp_path):
    with pytest.raises(UserError, match="holds no VQA-RAD: it must hold"):
        read("vqa_rad", tmp_path)
    write_json(tmp_path / "VQA_RAD Dataset Public.json", [ROW])
    with pytest.raises(UserError, match="no folder of images"):
        read("vqa_rad", tmp_path)
