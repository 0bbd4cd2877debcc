"""One's own samples: what every row must hold, and what is wrong with those that do not."""

import json
import pickle

import nibabel
import numpy as np
import pytest
from PIL import Image

from medjax.data.samples import Box, open_samples, values
from medjax.errors import UserError
from medjax.modalities.table import Modality

GRID = {"image_size": 16, "patch_size": 8}
MODALITIES = (
    Modality("ct", "patches", channels=3, content="image", **GRID),
    Modality("tok_organ", "image_tokens", 64, content="labels", source="organ", **GRID),
    Modality("report", "sequence", 900, max_length=32, content="text"),
    Modality("det", "sequence", 900, max_length=32, content="boxes"),
    Modality("tok_x", "image_tokens", 50, **GRID),
    Modality("sound", "sequence_tokens", 50, max_length=8),
    Modality("dose", "sequence", 900, max_length=4, content="number"),
)
BOX = {"box": [0, 0.25, 0.5, 1], "label": "liver"}
GOOD = {
    "ct": "a.png",
    "organ": "labels.png",
    "report": "no fracture",
    "det": [BOX],
    "tok_x": [1, 2, 3, 49],
    "sound": "ids.npy",
    "dose": 3,
}
LABELS = np.array([[0, 1, 2], [2, 255, 1]], np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("samples")
    Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3)).save(path / "a.png")
    Image.fromarray(LABELS).save(path / "labels.png")
    indexed = Image.fromarray(LABELS, "P")
    indexed.putpalette(np.arange(768) % 256)
    indexed.save(path / "indexed.png")
    Image.fromarray(LABELS).save(path / "labels.jpg")
    Image.fromarray(np.array([[0, 255]], np.uint8)).save(path / "binary.png")
    Image.fromarray(np.stack([LABELS] * 3, -1)).save(path / "colour.png")
    Image.fromarray(np.array([[0, 300]], np.uint16)).save(path / "deep.png")
    (path / "broken.png").write_bytes((path / "labels.png").read_bytes()[:40])
    Image.new("RGB", (1, 1), (200, 0, 0)).save(path / "red.png")
    volume = np.arange(8).reshape(2, 2, 2)
    nibabel.save(nibabel.Nifti1Image((volume % 3).astype(np.uint8), np.eye(4)), path / "v.nii")
    nibabel.save(nibabel.Nifti1Image((volume / 4).astype(np.float32), np.eye(4)), path / "f.nii")
    np.save(path / "ids.npy", np.array([[7, 8], [9, 10]]))
    np.save(path / "floats.npy", np.array([1.5]))
    np.save(path / "large.npy", np.array([7, 50]))
    (path / "broken.npy").write_bytes(b"\x93NUMPY")
    return path


def _open(folder, tmp_path, *rows, names=tuple(GOOD), **options):
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return open_samples(
        str(path), names=names, modalities=MODALITIES, channels={"tok_organ": 3},
        image_root=folder, data_dir="/nowhere", **options,
    )  # fmt: skip


def test_rows_become_samples(folder, tmp_path):
    nifti = {"organ": "v.nii", "axis": "axial", "slice": 1}
    rows = [GOOD | {"id": 5, "age": 40}, GOOD | nifti, GOOD | {"organ": "indexed.png"}]
    source = pickle.loads(pickle.dumps(_open(folder, tmp_path, *rows)))
    assert (len(source), source.names, source.faults) == (3, tuple(GOOD), {})
    first, second, third = source
    assert (first.id, second.id) == ("5", "data.jsonl:2")
    assert (first.extra, first.where) == ({"age": 40}, f"{tmp_path}/data.jsonl:1")
    assert second.extra == {"axis": "axial", "slice": 1}
    np.testing.assert_array_equal(first.value("ct")[..., 0], [[0, 1, 2], [3, 4, 5]])
    assert first.value("ct").shape == (2, 3, 1)
    coloured = _open(folder, tmp_path, {"ct": "red.png"}, names=("ct",))[0].value("ct")
    assert coloured.tolist() == [[[200, 0, 0]]]
    for sample in (first, third):
        np.testing.assert_array_equal(sample.value("organ"), LABELS)
    # Of [x, y, z] = 4 x + 2 y + z, right on the left and front up; classes modulo 3.
    np.testing.assert_array_equal(second.value("organ"), [[7 % 3, 3 % 3], [5 % 3, 1 % 3]])
    assert first.value("report") == "no fracture"
    assert first.value("det") == (Box("liver", 0.0, 0.25, 0.5, 1.0),)
    for name, ids in (("tok_x", [1, 2, 3, 49]), ("sound", [7, 8, 9, 10])):
        assert first.value(name).dtype == np.int32
        assert first.value(name).tolist() == ids
    assert first.value("dose") == 3  # a content that only its own transform knows


def test_text_alone_reads_no_image(folder, tmp_path):
    source = _open(folder, tmp_path, {"report": "fine", "ct": "gone.png"}, names=("report",))
    assert source[0].value("report") == "fine"
    assert source[0].extra == {"ct": "gone.png"}


def test_embeddings_lie_in_files(folder, tmp_path):
    prior = Modality("prior", "sequence_embeddings", max_length=4, channels=3, content="embeddings")

    def open_(array):
        np.save(tmp_path / "prior.npy", array)
        path = tmp_path / "data.jsonl"
        path.write_text(json.dumps({"prior": "prior.npy"}))
        return open_samples(str(path), names=("prior",), modalities=(prior,), data_dir="/nowhere")

    vectors = np.arange(6.0).reshape(2, 3)
    found = open_(vectors)[0].value("prior")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, vectors)
    for array, message in (
        (np.zeros(3), "holds no floats"),
        (np.zeros((2, 3), int), "holds no floats"),
        (np.full((1, 3), np.nan), "numbers that are not finite"),
    ):
        with pytest.raises(UserError, match=f"data.jsonl:1: .*{message}"):
            open_(array)


def _without(name):
    return {key: value for key, value in GOOD.items() if key != name}


BAD = [
    ("{", "invalid JSON", "the line is not JSON"),
    (_without("det"), "missing key", 'the key "det" is missing; the row has ct, organ, report'),
    (_without("dose"), "missing key", 'the key "dose" is missing'),
    (GOOD | {"id": ""}, "wrong type", "\"id\" is ''"),
    (GOOD | {"ct": "gone.png"}, "missing image", "The image .*gone.png does not exist"),
    (GOOD | {"ct": "broken.png"}, "unreadable image", "broken.png can't be read"),
    (GOOD | {"ct": 3}, "wrong type", '"ct" is 3: write a text'),
    (GOOD | {"organ": "gone.png"}, "missing labels", "The labels .*gone.png do not exist"),
    (GOOD | {"organ": "broken.png"}, "unreadable labels", "broken.png can't be read"),
    (GOOD | {"organ": "labels.jpg"}, "unreadable labels", "are a JPEG of mode L: save them as"),
    (GOOD | {"organ": "colour.png"}, "unreadable labels", "are a PNG of mode RGB: save them as"),
    (GOOD | {"organ": "deep.png"}, "unreadable labels", "uint16 values from 0 to 300"),
    (GOOD | {"organ": "binary.png"}, "bad label", "hold 0 and 255 alone, and 255 stands for what"),
    (GOOD | {"organ": "a.png"}, "bad label", "hold the class 5; there are classes 0 to 2, and 255"),
    (GOOD | {"organ": "v.nii"}, "missing key", '"axis"'),
    (GOOD | {"organ": "v.nii", "axis": 0, "slice": 2}, "no such slice", "slices 0 to 1, none 2"),
    (
        GOOD | {"organ": "f.nii", "axis": 0, "slice": 0},
        "unreadable labels",
        r"float32 values from 0.0 to 0.75; classes are whole numbers",
    ),
    (GOOD | {"report": None}, "wrong type", '"report" is None: write a text'),
    (GOOD | {"det": BOX}, "wrong type", '"det" is .*: write .{"box": .y1, x1, y2, x2., "label"'),
    (GOOD | {"det": [{"box": [0, 0, 1, 1]}]}, "missing key", '"det": the key "label" is missing'),
    (GOOD | {"det": [BOX | {"label": " "}]}, "empty label", '"det" has a box without a label'),
    (GOOD | {"det": [BOX | {"box": [0, 0, 1]}]}, "wrong type", "write .y1, x1, y2, x2."),
    (GOOD | {"det": [BOX | {"box": [0, 0, 1, 1.5]}]}, "bad box", "from 0 to 1, in parts"),
    (GOOD | {"det": [BOX | {"box": [0.5, 0, 0.2, 1]}]}, "bad box", "its order is y1, x1, y2, x2"),
    (GOOD | {"tok_x": [1, 2, 3]}, "bad length", '"tok_x" holds 3 ids instead of 4'),
    (GOOD | {"tok_x": [1, 2, 3, 50]}, "bad id", '"tok_x" holds the id 50; ids go from 0 to 49'),
    (GOOD | {"tok_x": [1, 2, 3, -1]}, "bad id", "holds the id -1"),
    (GOOD | {"tok_x": [10**30]}, "bad id", "holds a number beyond every vocabulary"),
    (GOOD | {"tok_x": [1, 2, 3, True]}, "wrong type", "write a list of ids or the path"),
    (GOOD | {"sound": "gone.npy"}, "missing ids", "The ids .*gone.npy do not exist"),
    (GOOD | {"sound": "broken.npy"}, "unreadable ids", "broken.npy can't be read"),
    (GOOD | {"sound": "floats.npy"}, "unreadable ids", "floats.npy is no .npy file of whole"),
    (GOOD | {"sound": "large.npy"}, "bad id", "large.npy holds the id 50"),
]


@pytest.mark.parametrize(("row", "reason", "message"), BAD)
def test_a_bad_row_stops_with_file_and_line(folder, tmp_path, row, reason, message):
    with pytest.raises(UserError, match=message) as info:
        _open(folder, tmp_path, GOOD, "", row, GOOD)
    assert str(info.value).startswith(f"{tmp_path}/data.jsonl:3: ")
    assert str(info.value).endswith("data.on_bad_example=skip.")
    assert info.value.reason == reason


def test_bad_rows_are_skipped_and_counted(folder, tmp_path):
    rows = [row for row, *_ in BAD]
    source = _open(folder, tmp_path, *rows, GOOD, on_bad_example="skip")
    assert [sample.id for sample in source] == [f"data.jsonl:{len(BAD) + 1}"]
    assert sum(source.faults.values()) == len(BAD)
    assert source.faults["bad id"] == 4
    with pytest.raises(UserError, match=r"has no row to use \(1 invalid JSON\)"):
        _open(folder, tmp_path, "{", on_bad_example="skip")


def test_ids_must_differ_and_files_stay(folder, tmp_path):
    with pytest.raises(UserError, match=r"data.jsonl:2: the id 'x' is that of line 1"):
        _open(folder, tmp_path, GOOD | {"id": "x"}, GOOD | {"id": "x"})
    content = (folder / "labels.png").read_bytes()
    (tmp_path / "mine.png").write_bytes(content)
    source = _open(folder, tmp_path, GOOD | {"organ": str(tmp_path / "mine.png")})
    (tmp_path / "mine.png").unlink()
    with pytest.raises(UserError, match=r"jsonl:1: The labels .* do not exist. It could be read"):
        source[0].value("organ")
    (tmp_path / "data.jsonl").write_text("")
    with pytest.raises(UserError, match="was changed while it was in use"):
        source[0]


def test_what_was_read_last_is_kept(folder, tmp_path, monkeypatch):
    rows = [{"ct": "a.png"}, {"ct": "red.png"}, {"ct": "a.png"}]
    read = []
    real = values.read_image
    monkeypatch.setattr(
        values, "read_image", lambda file: read.append(file.path.name) or real(file)
    )
    for size, wanted in ((99, ["a.png", "red.png"]), (0, ["a.png", "red.png", "a.png"] * 2)):
        source = _open(folder, tmp_path, *rows, names=("ct",), cache_bytes=size)
        read.clear()  # of what was checked when the file was opened
        for _ in range(2):
            assert [sample.value("ct").shape[2] for sample in source] == [1, 3, 1]
        assert read == wanted


def test_what_cannot_be_opened(folder, tmp_path):
    options = {"names": ("report",), "modalities": MODALITIES, "data_dir": tmp_path}
    with pytest.raises(UserError, match=r"no file gone.jsonl"):
        open_samples("gone.jsonl", **options)
    with pytest.raises(UserError, match="has no splits"):
        open_samples("gone.jsonl", split="test", **options)
    with pytest.raises(UserError, match="image_root is /gone"):
        open_samples("gone.jsonl", image_root="/gone", **options)
    both = Modality("tok_report", "sequence", 9, max_length=4, source="report")
    with pytest.raises(UserError, match=r"taken for: report \(text\), tok_report \(ids\)"):
        open_samples("gone.jsonl", **(options | {"modalities": (*MODALITIES, both)}))
