"""tools/masking_cost.py: at a tiny size, its report and its plot."""

import json
import sys

import masking_cost
import numpy as np
import pytest
from PIL import Image

from medjax import cli

TINY = ["--budgets", "4", "8", "--batches", "1", "2", "--budget", "4", "--batch", "2"]


def command(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["masking_cost.py", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.run(masking_cost.main)
    return exit_.value.code


def test_report_and_plot(monkeypatch, capsys, tmp_path):
    path = tmp_path / "new" / "cost.png"
    assert command(monkeypatch, *TINY, "--rounds", "1", "--json", "--out", str(path)) == 0
    report = json.loads(capsys.readouterr().out)
    assert [(p["budget"], p["batch"]) for p in report["by_budget"]] == [(4, 2), (8, 2)]
    assert [(p["budget"], p["batch"]) for p in report["by_batch"]] == [(4, 1), (4, 2)]
    assert report["by_budget"][0] == report["by_batch"][1]  # measured once
    for point in report["by_budget"] + report["by_batch"]:
        for quantity in ("microseconds_per_sample", "bytes"):
            assert all(point[quantity][side] > 0 for side in masking_cost.SIDES)
    text = masking_cost._text(report)
    assert f"{report['by_batch'][0]['microseconds_per_sample']['naive']:.1f} µs/sample" in text
    with Image.open(path) as picture:
        assert picture.size == (1080, 720)
        assert np.array(picture.convert("L")).std() > 10  # not an empty page


def test_a_picture_that_cannot_be_written(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "cost.png"
    assert command(monkeypatch, *TINY, "--out", str(path)) == 2
    assert f"--out {path} cannot be written" in capsys.readouterr().err


def test_bad_sizes(monkeypatch, capsys):
    assert command(monkeypatch, "--batches", "0") == 2
    assert "must be positive" in capsys.readouterr().err
