"""What the end of a run reads: images one at a time, and none where texts suffice."""

import json

import numpy as np

from medjax.data.example import Example
from medjax.data.setup import texts
from medjax.evaluation import run
from medjax.evaluation.predictions import read_jsonl


class Source:
    """Four questions about two images; `read` says which images were read, in their order."""

    def __init__(self):
        self.read: list[int] = []
        self.faults = {}

    def __len__(self):
        return 4

    def __getitem__(self, index):
        def pixels():
            self.read.append(index // 2)
            return np.full((600, 500, 3), index // 2, np.uint8)

        image = f"image {index // 2}"
        return Example(f"q{index}", pixels, "which plane?", "axial", image, {"task": "plane"})


def test_images_are_read_when_they_are_asked_for():
    source = Source()
    images = run.Images(source)
    assert list(images) == ["image 0", "image 1"]
    assert "image 1" in images
    assert "image 2" not in images
    assert source.read == []
    assert (images["image 1"] == 1).all()
    assert source.read == [1]


def test_texts_are_read_without_images():
    source = Source()
    said = run.majority([source], source)
    assert [p.generated for p in said] == ["axial"] * 4
    assert list(texts({"a": (source, 1.0)})) == ["which plane?", "axial"] * 4
    assert source.read == []


def test_writing_reads_each_image_once_for_the_page(tmp_path):
    source = Source()
    run.write(tmp_path, {"majority": run.majority([source], source)}, source, "title")
    # Then the picture's, of all four questions here.
    assert source.read == [0, 1, 0, 0, 1, 1]
    assert {path.name for path in tmp_path.iterdir()} == {
        "results.json", "results.md", "predictions.jsonl", "predictions.parquet",
        "predictions.html", "predictions.png",
    }  # fmt: skip


def test_chosen_metrics_and_keys_are_in_what_is_written(tmp_path):
    source = Source()
    systems = {"majority": run.majority([source], source)}
    table = run.write(
        tmp_path, systems, source, "title", metrics=("basic", "vqa", "bleu_1"), by=("task",)
    )
    assert list(table.by) == ["task"]
    written = read_jsonl(tmp_path / "predictions.jsonl")
    assert set(written[0].scores) == {"exact_match", "vqa_accuracy", "open_recall", "open_f1"}
    outcome = json.loads((tmp_path / "results.json").read_text())
    assert outcome["overall"]["bleu_1"]["systems"]["majority"]["value"] == 1.0
    assert "### By task" in (tmp_path / "results.md").read_text()
    assert "<summary>By task</summary>" in (tmp_path / "predictions.html").read_text()
