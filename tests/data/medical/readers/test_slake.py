import json
import logging

import pytest
from reader_files import faults, png, read, write_image, write_json

from medjax.data.loc_tokens import decode_boxes
from medjax.errors import UserError

ROW = {
    "img_id": 1,
    "img_name": "xmlab1/source.jpg",
    "question": "What modality is used to take this image?",
    "answer": "MRI",
    "q_lang": "en",
    "location": "Brain_Tissue",
    "modality": "MRI",
    "answer_type": "OPEN",
    "base_type": "vqa",
    "content_type": "Modality",
    "triple": ["vhead", "_", "_"],
    "qid": 0,
}
CHINESE = ROW | {
    "qid": 9835, "q_lang": "zh", "question": "图中有肝脏吗?", "answer": "有",
    "answer_type": "CLOSED", "content_type": "Organ",
}  # fmt: skip
BOXES = [{"Liver": [1.0, 0.0, 3.0, 2.0]}, {"Left_Kidney": [0, 1, 2, 2]}, {"Liver": [4, 3, 2, 1]}]


def _write(folder, train=(ROW,), validation=(), test=(), boxes=BOXES):
    for number in (1, 2):
        write_image(folder / "imgs" / f"xmlab{number}" / "source.jpg", number, 4, 8)
    write_image(folder / "imgs" / "xmlab1" / "mask.png", 3, 4, 8)
    write_json(folder / "imgs" / "xmlab1" / "detection.json", boxes)
    write_json(folder / "train.json", list(train))
    write_json(folder / "validate.json", list(validation))
    write_json(folder / "test.json", list(test))
    return folder


def _second(**change):
    return ROW | {"img_id": 2, "img_name": "xmlab2/source.jpg"} | change


def test_questions_of_both_languages_and_boxes(tmp_path):
    knowledge = _second(
        qid=5, base_type="kvqa", triple=["Liver", "function", "_"], answer_type="OPEN"
    )
    first, second, tested = read(
        "slake", _write(tmp_path, (ROW, CHINESE), (knowledge,), (_second(qid=7),))
    )
    assert [r.id for r in (first, second, tested)] == [
        "train/xmlab1", "validation/xmlab2", "test/xmlab2",
    ]  # fmt: skip
    assert [r.split for r in (first, second, tested)] == ["train", "validation", "test"]
    assert second.patient == tested.patient == "xmlab2"
    assert first.facts == {"modality": "MRI", "location": "Brain Tissue"}
    assert first.image.read() == png(1, 4, 8)
    assert first.mask.read() == png(3, 4, 8)
    assert second.mask is None
    english, chinese, liver, kidney = first.questions
    assert (english.id, english.task, english.language) == ("train/0", "open", "en")
    assert english.facts == {
        "answer_type": "open", "base_type": "vqa", "content_type": "Modality",
    }  # fmt: skip
    assert (chinese.question, chinese.answer, chinese.task, chinese.language) == (
        "图中有肝脏吗?", "有", "closed", "zh",
    )  # fmt: skip
    assert second.questions[0].facts["triple"] == "Liver | function | _"
    assert (liver.id, liver.task, liver.form) == ("train/xmlab1/detect/liver", "detect", "detect")
    assert (liver.question, kidney.question) == ("liver", "left kidney")
    # Boxes are x, y, width, height of an image of 4 x 8; tokens are y1, x1, y2, x2 in 1024 bins.
    assert liver.answer == (
        "<loc0000><loc0128><loc0512><loc0512> liver ; <loc0768><loc0512><loc1023><loc0768> liver"
    )
    ((box, label),) = decode_boxes(kidney.answer)
    assert label == "left kidney"
    assert box == pytest.approx((1 / 4, 0, 3 / 4, 2 / 8), abs=2 / 1024)


def test_an_answer_that_reads_like_unknown_stays(tmp_path):
    (record,) = read("slake", _write(tmp_path, (ROW | {"answer": "None"},)))
    assert record.questions[0].answer == "None"


def test_boxes_are_asked_for_where_the_english_questions_are(tmp_path):
    # With the Chinese questions dropped, the training part knows nothing of a test image.
    records = read("slake", _write(tmp_path, (CHINESE,), (), (ROW,)))
    tasks = {record.id: [q.task for q in record.questions] for record in records}
    assert tasks == {
        "train/xmlab1": ["closed"],
        "test/xmlab1": ["open", "detect", "detect"],
    }


def test_images_that_languages_divide_otherwise_are_warned_of_once(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        read("slake", _write(tmp_path, (CHINESE, _second(qid=3)), (), (ROW,)))
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("SLAKE: 1 images of one language's test part")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        read("slake", _write(tmp_path, (ROW, CHINESE), (), (_second(qid=3),)))
    assert not caplog.records


def test_the_hubs_name_of_the_validation_part(tmp_path):
    _write(tmp_path, (), (ROW,))
    (tmp_path / "validate.json").rename(tmp_path / "validation.json")
    assert [r.split for r in read("slake", tmp_path)] == ["validation"]


@pytest.mark.parametrize(
    ("change", "reason", "message"),
    [
        ({"answer_type": "BOTH"}, "unknown answer_type", '"answer_type" is .BOTH.'),
        ({"answer": ""}, "empty answer", "the answer is empty"),
        ({"q_lang": "fr"}, "unknown language", '"q_lang" is .fr.'),
        ({"img_name": "xmlab9/source.jpg"}, "missing image", r"xmlab9/source\.jpg does not exist"),
        ({"triple": "x", "base_type": "kvqa"}, "wrong type", '"triple" of the record is'),
    ],
)
def test_damage_is_named_by_file_and_record(tmp_path, change, reason, message):
    folder = _write(tmp_path, (ROW, ROW | {"qid": 8} | change))
    with pytest.raises(UserError, match=rf"train\.json: record 1, qid 8: .*{message}"):
        read("slake", folder)
    assert faults("slake", folder) == {reason: 1}


@pytest.mark.parametrize(
    ("boxes", "reason"),
    [
        ([{"Liver": [1, 2, 3]}], "damaged box"),
        ([{"Liver": [1, 2, 0, 3]}], "damaged box"),
        ([{"Liver": [1, 2, "3", 3]}], "damaged box"),
        ([{"Liver": [float("nan"), 2, 3, 3]}], "damaged box"),
        (["Liver"], "damaged box"),
    ],
)
def test_damaged_boxes_cost_the_boxes_alone(tmp_path, boxes, reason):
    folder = _write(tmp_path, boxes=boxes)
    with pytest.raises(UserError, match=r"xmlab1/detection\.json: "):
        read("slake", folder)
    assert faults("slake", folder) == {reason: 1}
    assert len(read("slake", folder, "skip")[0].questions) == 1


def test_broken_files(tmp_path):
    folder = _write(tmp_path)
    (folder / "imgs" / "xmlab1" / "detection.json").write_text("[{")
    assert faults("slake", folder) == {"invalid JSON": 1}
    write_json(folder / "imgs" / "xmlab1" / "detection.json", BOXES)
    (folder / "imgs" / "xmlab1" / "source.jpg").write_bytes(b"no image")
    assert faults("slake", folder) == {"unreadable image": 1}
    (folder / "test.json").write_text(json.dumps([ROW])[:-3])
    with pytest.raises(UserError, match=r"test\.json: record 0: the JSON is damaged"):
        read("slake", folder)
    (folder / "validate.json").unlink()
    with pytest.raises(UserError, match=r"lacks validate\.json or validation\.json"):
        read("slake", folder)
