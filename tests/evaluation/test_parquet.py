"""predictions.parquet: what is written is read back, and can be looked at."""

import dataclasses
import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from medjax.data.example import Example
from medjax.errors import UserError
from medjax.evaluation.parquet import read_parquet, write_parquet
from medjax.evaluation.predictions import from_example
from medjax.thumbnails import thumbnails

EXTRAS = [
    {"task": "plane", "patient": "P1", "age": 41, "dose": 1, "seen": True, "box": [1, 2]},
    {"task": "plane", "patient": "P2", "age": np.float32(1.5), "dose": "high", "flip": None},
    {"task": "other", "big": 1 << 70},
]


@pytest.fixture
def systems():
    examples = [
        Example(f"q{i}", None, "which plane?", "axial" if i < 2 else "", f"image {i % 2}", extra)
        for i, extra in enumerate(EXTRAS)
    ]
    said = [from_example(e, "Axial", log_prob=-0.5, num_tokens=3) for e in examples]
    base = [from_example(e, "coronal \ud83e") for e in examples]
    captions = dataclasses.replace(said[1], scores={"exact_match": 0.0, "token_f1": 0.25})
    return {"base": base, "tuned": [said[0], captions, said[2]]}


@pytest.fixture
def images():
    random = np.random.default_rng(0)
    pixels = {f"image {i}": random.integers(0, 256, (64, 64, 3), np.uint8) for i in range(2)}
    return thumbnails(pixels, dict.fromkeys(pixels, 3))


def test_what_is_written_is_read(tmp_path, systems, images):
    path = tmp_path / "predictions.parquet"
    write_parquet(path, systems, images)
    read = read_parquet(path)
    assert list(read) == ["base", "tuned"]
    for name, written in systems.items():
        for ours, theirs in zip(read[name], written, strict=True):
            alike = dataclasses.replace(theirs, extra=ours.extra, generated=ours.generated)
            assert ours == alike
            assert ours.generated == theirs.generated.replace("\ud83e", "?")
    # Texts and numbers are kept; a column of both is one of texts.
    assert [p.extra for p in read["tuned"]] == [
        {"task": "plane", "patient": "P1", "age": 41.0, "dose": "1", "seen": True},
        {"task": "plane", "patient": "P2", "age": 1.5, "dose": "high"},
        {"task": "other", "big": str(1 << 70)},
    ]


def test_columns(tmp_path, systems):
    path = tmp_path / "predictions.parquet"
    write_parquet(path, systems)
    table = pq.read_table(path)
    assert table.column_names == [
        "system", "id", "image_id", "patient", "group", "task", "question", "generated", "truth",
        "score_exact_match", "score_token_f1", "confidence", "log_prob", "log_prob_per_token",
        "truncated", "extra_task", "extra_age", "extra_dose", "extra_seen", "extra_big",
    ]  # fmt: skip
    assert table["system"].to_pylist() == ["base", "tuned"] * 3  # an example's rows are together
    assert table["score_token_f1"].to_pylist() == [None, None, None, 0.25, None, None]
    assert table["confidence"].to_pylist()[1] == pytest.approx(np.exp(-0.5 / 3))


def test_images_can_be_looked_at(tmp_path, systems, images):
    path = tmp_path / "predictions.parquet"
    write_parquet(path, systems, images)
    table = pq.read_table(path)
    for key, image in zip(table["image_id"], table["image"], strict=True):
        file = image.as_py()
        assert file["bytes"] == images[key.as_py()].data
        assert Image.open(io.BytesIO(file["bytes"])).size == (64, 64)
        assert file["path"].endswith(images[key.as_py()].format)
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features == {"image": {"_type": "Image"}}


def test_an_image_is_stored_once(tmp_path, systems, images):
    path = tmp_path / "predictions.parquet"
    many = [dataclasses.replace(p, id=f"{p.id}/{i}") for p in systems["base"] for i in range(300)]
    write_parquet(path, {"base": many}, images)
    once = sum(len(image.data) for image in images.values())
    assert once < path.stat().st_size < once + 20_000


def test_equal_input_gives_equal_bytes(tmp_path, systems, images):
    for name in "ab":
        write_parquet(tmp_path / name, systems, images)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "b"]


def test_nothing_answered_is_a_table_too(tmp_path):
    write_parquet(tmp_path / "a", {"base": []}, {})
    assert read_parquet(tmp_path / "a") == {}


def test_a_missing_image_leaves_no_file(tmp_path, systems, images):
    with pytest.raises(ValueError, match="missing, such as 'image 1'"):
        write_parquet(tmp_path / "a", systems, {"image 0": images["image 0"]})
    assert not list(tmp_path.iterdir())


def test_what_is_no_such_table_is_told_of(tmp_path, systems):
    with pytest.raises(UserError, match="cannot read"):
        read_parquet(tmp_path / "missing.parquet")
    (tmp_path / "text.parquet").write_text("no")
    with pytest.raises(UserError, match="cannot read"):
        read_parquet(tmp_path / "text.parquet")
    write_parquet(tmp_path / "a", systems)
    pq.write_table(pq.read_table(tmp_path / "a").drop_columns(["truth"]), tmp_path / "b")
    with pytest.raises(UserError, match="not a table of predictions as medjax writes it"):
        read_parquet(tmp_path / "b")
