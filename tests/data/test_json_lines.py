import dataclasses
import json
import logging
import pickle

import nibabel
import numpy as np
import pytest
from PIL import Image

from medjax.data import json_lines
from medjax.data.image import ImageTransform
from medjax.data.json_lines import JsonLinesSource
from medjax.errors import UserError

GOOD = {"image": "a.png", "prefix": "answer en what is it?", "suffix": "a hand"}


@pytest.fixture
def folder(tmp_path):
    for name, value in (("a.png", 10), ("b.png", 20), ("c.png", 30)):
        Image.fromarray(np.full((2, 3), value, np.uint8)).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    volume = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "v.nii")
    return tmp_path


def _write(folder, *lines) -> str:
    path = folder / "data.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n")
    return path


def test_rows_become_examples(folder):
    rows = [
        GOOD | {"id": "first", "task": "look", "age": 40},
        {"image": "b.png", "prefix": "caption en", "suffix": ""},
        {"image": "a.png", "prefix": "détail ?", "suffix": "ja <loc0001>", "id": 7},
    ]
    source = JsonLinesSource(_write(folder, *rows))
    assert len(source) == 3
    assert source.faults == {}
    first, second, third = source
    assert (first.id, second.id, third.id) == ("first", "data.jsonl:2", "7")
    assert (first.prefix, first.suffix) == (GOOD["prefix"], "a hand")
    assert first.extra == {"task": "look", "age": 40}
    assert second.suffix == ""
    assert second.extra == {}
    assert (third.prefix, third.suffix) == ("détail ?", "ja <loc0001>")
    assert (first.image == 10).all()
    assert second.image.shape == (2, 3, 3)
    assert first.image_key == third.image_key != second.image_key
    assert source[-1].id == "7"
    with pytest.raises(IndexError):
        source[3]


def test_blank_lines_a_byte_order_mark_and_a_last_line_without_end(folder):
    path = folder / "data.jsonl"
    row = json.dumps(GOOD).encode()
    path.write_bytes(b"\xef\xbb\xbf" + row + b"\r\n\n  \n" + row)
    source = JsonLinesSource(path)
    assert [example.id for example in source] == ["data.jsonl:1", "data.jsonl:4"]


def test_images_elsewhere(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("elsewhere")
    Image.fromarray(np.full((2, 3), 99, np.uint8)).save(other / "a.png")
    path = _write(folder, GOOD)
    assert (JsonLinesSource(path, image_root=other)[0].image == 99).all()
    absolute = _write(folder, GOOD | {"image": str(other / "a.png")})
    assert (JsonLinesSource(absolute)[0].image == 99).all()


def test_slices_of_a_volume(folder):
    rows = [
        {**GOOD, "image": "v.nii", "axis": "axial", "slice": index, "window": [0, 255]}
        for index in (0, 1)
    ]
    source = JsonLinesSource(_write(folder, *rows))
    assert source[0].image[..., 0].tolist() == [[6, 2], [4, 0]]
    assert source[1].image[..., 0].tolist() == [[7, 3], [5, 1]]
    assert source[0].image_key != source[1].image_key
    assert source[0].extra == {"axis": "axial", "slice": 0, "window": [0, 255]}


def test_only_some_tasks(folder):
    rows = [GOOD | {"task": "look"}, GOOD | {"task": "find"}, GOOD, GOOD | {"task": "find"}]
    # A bad image of a task that is left out does no harm.
    path = _write(folder, *rows, GOOD | {"task": "other", "image": "broken.png"})
    source = JsonLinesSource(path, tasks=("find",))
    assert [example.id for example in source] == ["data.jsonl:2", "data.jsonl:4"]
    with pytest.raises(UserError, match=r"no row with .* 'fnid': it has find, look, other"):
        JsonLinesSource(path, tasks=("fnid", "find"))


def test_a_task_that_is_no_text_is_a_bad_row(folder):
    path = _write(folder, GOOD | {"task": "look"}, GOOD | {"task": ["look"]})
    with pytest.raises(UserError, match=r'data.jsonl:2: "task" is .*: write a text'):
        JsonLinesSource(path, tasks=("look",))
    source = JsonLinesSource(path, tasks=("look",), on_bad_example="skip")
    assert (len(source), source.faults) == (1, {"wrong type": 1})


def test_another_process_reads_the_same(folder):
    source = JsonLinesSource(_write(folder, GOOD, GOOD | {"image": "b.png"}))
    copy = pickle.loads(pickle.dumps(source))
    assert (copy[1].image == source[1].image).all()
    assert copy[1].id == source[1].id


BAD = [
    ("{'image': 1}", "invalid JSON", "the line is not JSON"),
    ('{"image": "a.png", ', "invalid JSON", "the line is not JSON"),
    ('["a.png"]', "invalid JSON", "not a JSON object"),
    ({"prefix": "q", "suffix": "a"}, "missing key", '"image" is missing; the row has prefix, suf'),
    ({"image": "a.png", "suffix": "a"}, "missing key", 'key "prefix" is missing'),
    ({"image": "a.png", "prefix": "q", "sufix": "a"}, "missing key", 'key "suffix" is missing'),
    (GOOD | {"dose": float("nan")}, "invalid JSON", "the line is not JSON .NaN is no number"),
    (GOOD | {"a": [{"b": -float("inf")}]}, "invalid JSON", "-Infinity is no number; write null"),
    (json.dumps(GOOD | {"dose": 3}).replace("3", "1e999"), "invalid JSON", "1e999 is no number"),
    (json.dumps(GOOD | {"n": 3}).replace("3", "3" * 5000), "invalid JSON", "is not JSON"),
    ("[" * 100_000, "invalid JSON", "is not JSON"),
    (GOOD | {"prefix": "half \ud83e"}, "invalid text", '"prefix" has half a character'),
    (GOOD | {"task": ["a"]}, "wrong type", "\"task\" is .'a'.: write a text"),
    (GOOD | {"suffix": ["a", "b"]}, "wrong type", '"suffix" is .*: write a text'),
    (GOOD | {"image": None}, "wrong type", '"image" is None: write a text'),
    (GOOD | {"id": ""}, "wrong type", "\"id\" is ''"),
    (GOOD | {"id": {}}, "wrong type", '"id" is {}'),
    (GOOD | {"prefix": " \n"}, "empty question", '"prefix" is empty'),
    (GOOD | {"image": "gone.png"}, "missing image", r"the image .*gone.png does not exist"),
    (GOOD | {"image": ""}, "missing image", "does not exist"),
    (GOOD | {"image": "broken.png"}, "unreadable image", r"The image .*broken.png can't be read"),
    (GOOD | {"image": "v.nii"}, "missing key", '"axis"'),
    (GOOD | {"image": "v.nii", "axis": 0, "slice": 2}, "no such slice", "slices 0 to 1, none 2"),
]


@pytest.mark.parametrize(("row", "reason", "message"), BAD)
def test_a_bad_row_stops_with_file_and_line(folder, row, reason, message):
    path = _write(folder, GOOD, "", row, GOOD)
    with pytest.raises(UserError, match=message) as info:
        JsonLinesSource(path)
    assert str(info.value).startswith(f"{path}:3: ")
    assert str(info.value).endswith("data.on_bad_example=skip.")
    assert info.value.reason == reason
    # Worker processes send their errors home.
    assert str(pickle.loads(pickle.dumps(info.value))) == str(info.value)


def test_a_line_that_is_not_utf8(folder):
    path = folder / "data.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"image": "\xff"}\n')
    with pytest.raises(UserError, match=r"data.jsonl:2: the line is not UTF-8"):
        JsonLinesSource(path)


def test_bad_rows_are_skipped_and_counted(folder, caplog):
    rows = [row for pair in BAD for row in (GOOD, pair[0])]
    with caplog.at_level(logging.WARNING):
        source = JsonLinesSource(_write(folder, *rows), on_bad_example="skip")
    assert len(source) == len(BAD)
    assert [example.id for example in source] == [
        f"data.jsonl:{number}" for number in range(1, 2 * len(BAD), 2)
    ]
    assert source.faults == {
        "invalid JSON": 8,
        "invalid text": 1,
        "missing key": 4,
        "wrong type": 5,
        "empty question": 1,
        "missing image": 2,
        "unreadable image": 1,
        "no such slice": 1,
    }
    assert "left out 23 rows (8 " in caplog.text
    assert "data.jsonl:2: the line is not JSON" in caplog.text


def test_nothing_left(folder):
    path = _write(folder, "{", GOOD | {"image": "gone.png"})
    with pytest.raises(UserError, match=r"no row to use \(1 invalid JSON, 1 missing image\)"):
        JsonLinesSource(path, on_bad_example="skip")
    with pytest.raises(UserError, match="no row to use"):
        JsonLinesSource(_write(folder, ""))


@pytest.mark.parametrize("policy", ["error", "skip"])
def test_ids_must_differ(folder, policy):
    path = _write(folder, GOOD | {"id": "x"}, GOOD, GOOD | {"id": "x"})
    with pytest.raises(UserError, match=r"data.jsonl:3: the id 'x' is that of line 1"):
        JsonLinesSource(path, on_bad_example=policy)


def test_missing_files_and_misspelt_policies(folder):
    path = _write(folder, GOOD)
    with pytest.raises(UserError, match=r"no file .*gone.jsonl"):
        JsonLinesSource(folder / "gone.jsonl")
    with pytest.raises(UserError, match="image_root is /nowhere"):
        JsonLinesSource(path, image_root="/nowhere")
    with pytest.raises(UserError, match="on_bad_example is 'ignore'"):
        JsonLinesSource(path, on_bad_example="ignore")


def test_changes_during_use_are_noticed(folder):
    source = JsonLinesSource(_write(folder, GOOD, GOOD | {"image": "b.png"}))
    (folder / "b.png").unlink()
    with pytest.raises(UserError, match=r"data.jsonl:2: The image .*b.png does not exist"):
        source[1].image  # noqa: B018
    _write(folder, GOOD)
    with pytest.raises(UserError, match="was changed while it was in use"):
        source[0]


def test_an_image_is_read_when_it_is_asked_for(folder, monkeypatch):
    source = JsonLinesSource(_write(folder, GOOD | {"id": "x"}, GOOD))
    read = []
    real = json_lines.read_image
    monkeypatch.setattr(json_lines, "read_image", lambda file: read.append(file) or real(file))
    texts = [(example.prefix, example.suffix, example.where) for example in source]
    assert texts == [(GOOD["prefix"], "a hand", f"{folder}/data.jsonl:{line}") for line in (1, 2)]
    assert dataclasses.replace(source[0], suffix="").suffix == ""
    assert read == []
    # The cache of resized images saves the reading, too.
    resized = ImageTransform(4)
    for _ in range(3):
        assert (resized(source[0]) == 10).all()
        assert (resized(source[1]) == 10).all()
    assert len(read) == 1
    assert (pickle.loads(pickle.dumps(source[0])).image == 10).all()


def test_checking_many_images_shows_progress(folder, capsys):
    rows = []
    content = (folder / "a.png").read_bytes()
    for number in range(1001):
        (folder / f"{number}.png").write_bytes(content)
        rows.append(GOOD | {"image": f"{number}.png"})
    assert len(JsonLinesSource(_write(folder, *rows))) == 1001
    shown = capsys.readouterr()
    assert "Checking images" in shown.err
    assert shown.out == ""
