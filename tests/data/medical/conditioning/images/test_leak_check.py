"""The tool: counts, exit codes, one JSON object, and a page that trusts no data."""

import json
import sys

import leak_check
import pytest

from medjax import cli
from medjax.data.medical import catalogue
from medjax.data.medical.dataset import Dataset


@pytest.fixture
def run(monkeypatch, capsys, folder, anatomy, clean_records):
    """Runs the tool on two datasets, of which the second has a copy of an image of the first."""
    odd = '<script>alert("1")</script>'
    others = [
        folder.record("copy", anatomy[0], split="test", form="jpg", patient=odd),
        folder.record("own", anatomy[20], split="train"),
    ]
    datasets = {
        name: Dataset(name, "", "", "", "", lambda path, counter, of=of: iter(of))
        for name, of in (("medpix2", clean_records), ("vqa_rad", others))
    }
    monkeypatch.setattr(catalogue, "dataset", datasets.__getitem__)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["leak_check.py", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            cli.run(leak_check.main)
        return exit_.value.code, *capsys.readouterr()

    return run


def test_counts_and_page(run, tmp_path):
    page = tmp_path / "new" / "leaks.html"
    both = (f"--data=medpix2={tmp_path}", f"--data=vqa_rad={tmp_path}")
    code, out, err = run(*both, "--json", "--page", page)
    told = json.loads(out)
    assert code == 0
    assert "1 × near-duplicate" in err
    (leak,) = told["leaks"]
    assert leak["parts"] == ["medpix2 train", "vqa_rad test"]
    assert leak["images"] == ["scan00", "copy"]
    row = next(r for r in told["compared"] if r["parts"] == leak["parts"])
    assert row["pairs"]["near-duplicate"] == 1
    assert row["images shared"] == [1, 1]
    assert sum(sum(r["pairs"].values()) for r in told["compared"]) == 1
    text = page.read_text()
    assert "&lt;script&gt;alert(" in text
    assert text.count("<script>") == 1
    assert text.count("<image id=") == 2
    code, out, _ = run(*both, "--strict")
    assert code == 2
    assert out.splitlines()[0].startswith("parts")


def test_nothing_shared(run, tmp_path):
    page = tmp_path / "leaks.html"
    code, _, err = run(f"--data=medpix2={tmp_path}", "--strict", "--page", page)
    assert code == 0
    assert "share nothing" in err
    assert "share nothing" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data=nothing=/tmp"], "--data is 'nothing=/tmp'"),
        (["--data=medpix2=/tmp", "--data=medpix2=/"], "twice"),
        (["--data=medpix2=/tmp", "--distance=65"], "--distance is 65"),
    ],
)
def test_mistakes(run, arguments, said):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert said in err
