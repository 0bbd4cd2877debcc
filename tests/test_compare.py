"""tools/compare.py: the files that it writes, and what it says."""

import json
import re
import sys

import compare as tool
import pytest
from PIL import Image

from medjax import cli
from medjax.data.example import Example
from medjax.evaluation.comparison.text import parameters
from medjax.evaluation.predictions import from_example, write_jsonl

EVIL = "<script>alert(1)</script> | *a* $x_1$ & <b>"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two systems, the second better, and a file of published figures."""
    root = tmp_path_factory.mktemp("systems")
    for number, name in enumerate(("first", EVIL)):
        folder = root / str(number)
        folder.mkdir()
        write_jsonl(folder / "predictions.jsonl", [
            from_example(
                Example(f"q{i}", None, "which?", "axial", "", {"task": "plane", "patient": i // 2}),
                "axial" if number or i % 3 else "no", group_key="patient",
            )
            for i in range(24)
        ])  # fmt: skip
        about = {"name": name, "licence": "mit", "parameters": 2.9e9, "source": EVIL}
        (folder / "system.json").write_text(json.dumps(about))
    figures = [{"system": "paper's", "source": "a paper", "exact_match": 0.5, "BLEU-4": 0.1}]
    (root / "published.json").write_text(json.dumps(figures))
    return root


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["compare.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.run(tool.main)
        return exit_.value.code, *capsys.readouterr()

    return run


def test_all_files(folders, run, tmp_path):
    code, out, err = run(
        "--systems", folders / "0", folders / "1", "--published", folders / "published.json",
        "--output", tmp_path / "out", "--title", EVIL, "--json",
    )  # fmt: skip
    assert code == 0, err
    report = json.loads(out)
    assert report == json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [system["name"] for system in report["systems"]] == ["first", EVIL, "paper's"]
    [section] = report["sections"]
    [first, second, published] = section["metrics"]["exact_match"]["systems"]
    assert (first["value"], second["value"], published["value"]) == (pytest.approx(2 / 3), 1, 0.5)
    assert second["difference"]["leaves_out_0"]
    assert "difference" not in published

    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "| first | mit | 2.9B | 0.67 [" in text
    assert "| paper's (published) | – | – | 0.50 | 0.10 |" in text
    assert r"\*" in text.split("minus first")[1].split("\n")[2]  # the difference is marked
    assert "<script" not in text

    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "alert(1)&lt;/script&gt;" in page
    assert page.count("<script") == 1
    assert len(re.findall(r'<td class="estimate"[^>]*data-value=""', page)) == 2  # no BLEU-4
    assert '<span class="mark">published</span>' in page
    assert '<span class="mark">reference</span>' in page

    with Image.open(tmp_path / "out" / "comparison.png") as picture:
        assert picture.size[0] > 800


def test_what_is_wrong_is_said(folders, run, tmp_path):
    code, out, err = run("--systems", tmp_path / "missing", "--output", tmp_path / "out")
    assert (code, out) == (2, "")
    assert "missing: no predictions.parquet and no predictions.jsonl" in err
    code, _, err = run("--systems", folders / "0", "--reference", "x", "--output", tmp_path / "out")
    assert code == 2
    assert "no system is named 'x': first" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("number", "text"),
    [(None, "–"), (2.923e9, "2.92B"), (7e9, "7B"), (86e6, "86M"), (1.5e12, "1.5T"), (12, "12")],
)
def test_parameters_as_people_write_them(number, text):
    assert parameters(number) == text
