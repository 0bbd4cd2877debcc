"""The picture of the masks: what it says of each, and that it is drawn."""

import json
import sys

import draw_masks
import pytest
from PIL import Image

from medjax import cli


def test_a_picture_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["draw_masks.py", "--out", str(tmp_path / "file" / "x.png")])
    with pytest.raises(SystemExit) as exit_:
        cli.run(draw_masks.main)
    assert exit_.value.code == 2
    assert "cannot be written" in capsys.readouterr().err


def test_picture_and_counts(tmp_path, monkeypatch, capsys):
    path = tmp_path / "new" / "masks.png"
    monkeypatch.setattr(sys, "argv", ["draw_masks.py", "--out", str(path), "--json"])
    with pytest.raises(SystemExit) as exit_:
        cli.run(draw_masks.main)
    assert exit_.value.code == 0
    pairs = json.loads(capsys.readouterr().out)["pairs"]
    n = draw_masks.LENGTH
    assert pairs["full"] == {"allowed": n * n, "computed": n * n}
    # The tiles of 4 on the diagonal are computed whole: 6 pairs each in vain.
    assert pairs["causal"] == {"allowed": n * (n + 1) // 2, "computed": n * (n + 1) // 2 + 4 * 6}
    assert pairs["decoding, one query a row of the batch"] == {"allowed": 26, "computed": 32}
    for mask in pairs.values():
        assert mask["allowed"] <= mask["computed"] <= n * n
    with Image.open(path) as picture:
        assert picture.size[0] > 800
        assert len(picture.convert("RGB").getcolors(2**24) or ()) > 3
