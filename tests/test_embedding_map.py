"""The command that draws the embedding map, over a run that knows what it is told."""

import dataclasses
import json
import sys
import types

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
    modalities = {"t1": None, "caption": None}

    def samples(self, split):
        assert split == "validation"
        return [Sample(f"s{i:02d}", {"level": i % LEVELS, "slab": i // 6}) for i in range(24)]

    def encode(self, modality, samples):
        levels = np.eye(LEVELS)[[sample.extra["level"] for sample in samples]]
        wiggle = np.array([[int(sample.id[1:])] for sample in samples]) / 1000
        return np.concatenate([levels, wiggle], 1).astype(np.float32)

    def show(self, modality, sample):
        return np.zeros((4, 4, 3), np.uint8) if modality == "t1" else f"a slice, {sample.id}"


def command(monkeypatch, *arguments):
    def load(workdir):
        assert workdir.name == "run"
        return Run()

    monkeypatch.setitem(
        sys.modules, "medjax.pipelines.fourm", types.SimpleNamespace(load=load)
    )  # fmt: skip
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


def test_what_is_wrong_is_told(tmp_path, monkeypatch, capsys):
    workdir = f"--workdir={tmp_path / 'run'}"
    assert command(monkeypatch, workdir, "--level=depth") == 2
    assert "--level what it says: level, slab" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert command(monkeypatch, workdir, f"--output={tmp_path / 'file'}", "--method=pca") == 2
    assert "cannot be written" in capsys.readouterr().err
