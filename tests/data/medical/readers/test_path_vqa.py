import pickle

import pytest
from reader_files import faults, pair, read, write_image, write_json, write_parquet

from medjax.errors import UserError

ROW = {"image": "train_0422", "question": "Is it benign?", "answer": "yes"}


def _write(folder, *rows):
    write_image(folder / "images" / "train" / "train_0422.jpg", 10)
    write_json(folder / "train_qa.json", list(rows))
    return folder


def test_three_parts_of_parquet_files(tmp_path):
    # The rows of an image may lie in several row groups, and in several files.
    rows = [pair(value, f"what is {value}?", f"thing {value}") for value in (1, 2, 3)]
    write_parquet(tmp_path / "train-00000-of-00002-0aa.parquet", rows)
    write_parquet(tmp_path / "train-00001-of-00002-0bb.parquet", [pair(1, "is it?", "Yes")])
    write_parquet(tmp_path / "validation-00000-of-00001.parquet", [pair(4, "why?", "fat")])
    write_parquet(tmp_path / "test-00000-of-00001.parquet", [pair(5, "is it?", "no")])
    records = read("path_vqa", tmp_path)
    assert [r.split for r in records] == ["train"] * 3 + ["validation", "test"]
    assert [(q.id, q.task, q.answer) for q in records[0].questions] == [
        ("train/0-0", "open", "thing 1"), ("train/1-0", "closed", "Yes"),
    ]  # fmt: skip
    assert [int(record.image.pixels()[0, 0, 0]) for record in records] == [1, 2, 3, 4, 5]
    assert len({record.id for record in records}) == 5


def test_json_of_the_authors_files_without_what_it_repeats(tmp_path):
    other = ROW | {"question": "where are liver stem cells located?", "answer": "in the canals"}
    write_image(tmp_path / "images" / "val" / "val_0001.jpg", 20)
    write_json(tmp_path / "val_qa.json", [ROW | {"image": "val_0001.jpg"}])
    first, second = read("path_vqa", _write(tmp_path, ROW, other, ROW))
    assert [(q.id, q.task) for q in first.questions] == [("train/0", "closed"), ("train/1", "open")]
    assert (first.id, first.split) == ("train/train_0422", "train")
    assert (second.id, second.split) == ("validation/val_0001", "validation")


def test_a_pickle_is_never_opened(tmp_path):
    class Harmful:
        def __reduce__(self):
            return open, (str(tmp_path / "opened"), "w")

    (tmp_path / "qas").mkdir()
    (tmp_path / "qas" / "train_qa.pkl").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(UserError, match=r"train_qa\.pkl is a pickle, which medjax does not open"):
        read("path_vqa", tmp_path)
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize(
    ("change", "reason", "message"),
    [
        ({"answer": ""}, "empty answer", "the answer is empty"),
        ({"question": None}, "wrong type", '"question" of the record is None'),
        ({"image": "train_9"}, "missing image", r"train_9\.jpg does not exist"),
    ],
)
def test_damage_is_named_by_file_and_record(tmp_path, change, reason, message):
    folder = _write(tmp_path, ROW, ROW | {"question": "and?"} | change)
    with pytest.raises(UserError, match=rf"train_qa\.json: record 1, image .*{message}"):
        read("path_vqa", folder)
    assert faults("path_vqa", folder) == {reason: 1}


def test_an_empty_folder_says_what_it_must_hold(tmp_path):
    with pytest.raises(UserError, match=r"holds no PathVQA: it must hold train-\*\.parquet"):
        read("path_vqa", tmp_path)
