"""The command that draws the embedding map, over a run that knows what it is told."""

import dataclasses
import json
import sys

import embedding_map
import numpy as np
import pytest

from medjax import cli

LEVELS = 4


@dataclasses.dataclass
class Sample:
    id: str
    extra: dict


class Run:
    modalities = ("t1", "caption")

    def __init__(self, workdir, split):
        assert (workdir.name, split) == ("run", "validation")
        extras = [{"level": i % LEVELS, "slab": i // 6, "number": i} for i in range(24)]
        self.samples = [Sample(f"s{extra['number']:02d}", extra) for extra in extras]

    def encode(self, modality, samples):
        levels = np.eye(LEVELS)[[sample.extra["level"] for sample in samples]]
        wiggle = np.array([[int(sample.id[1:])] for sample in samples]) / 1000
        return np.concatenate([levels, wiggle], 1).astype(np.float32)

    def show(self, modality, sample):
        return np.zeros((4, 4, 3), np.uint8) if modality == "t1" else f"a slice, {sample.id}"


def command(monkeypatch, *arguments):
    monkeypatch.setattr(embedding_map, "TrainedRun", Run)
    monkeypatch.setattr(sys, "argv", ["embedding_map.py", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.run(embedding_map.main)
    return exit_.value.code


def test_files_and_json(tmp_path, monkeypatch, capsys):
    workdir, output = tmp_path / "run", tmp_path / "new" / "out"
    arguments = (f"--workdir={workdir}", f"--output={output}", "--samples=12", "--json")
    assert command(monkeypatch, *arguments, "--method=pca") == 0
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert report == json.loads((output / "embedding_map.json").read_text())
    # Twelve of the 24 samples, each second one: of two levels, six each.
    assert (report["samples"], report["modalities"]) == (12, ["t1", "caption"])
    assert report["neighbours"]["precision"] == 1.0
    assert report["neighbours"]["chance"] == pytest.approx(5 / 11)
    assert "100% have its level" in said.err
    assert sorted(path.suffix for path in output.iterdir()) == [".html", ".json", ".png"]
    page = (output / "embedding_map.html").read_text("utf-8")
    assert "a slice, s22" in page
    assert "a slice, s23" not in page


def test_levels_of_several_keys_and_features_about_their_means(tmp_path, monkeypatch, capsys):
    arguments = (f"--workdir={tmp_path / 'run'}", "--level=slab,level", "--centred", "--json")
    assert command(monkeypatch, *arguments, "--method=pca") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["centred"] is True
    # Of a slab's six, four share their level with one other of it.
    assert report["neighbours"]["chance"] == pytest.approx(16 / 24 / 23)
    page = (tmp_path / "run" / "embedding_map.html").read_text("utf-8")
    assert "<span>3 1</span>" in page


def test_what_is_wrong_is_told(tmp_path, monkeypatch, capsys):
    workdir = f"--workdir={tmp_path / 'run'}"
    assert command(monkeypatch, workdir, "--level=depth") == 2
    assert "--level what it says: level, slab, number" in capsys.readouterr().err
    assert command(monkeypatch, workdir, "--level=number") == 2
    assert "24 different values" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert command(monkeypatch, workdir, f"--output={tmp_path / 'file'}", "--method=pca") == 2
    assert "cannot be written" in capsys.readouterr().err
