"""What curves are read from metrics.jsonl, what they show, and that they are drawn."""

import dataclasses
import json
import sys

import curves as tool
import numpy as np
import pytest
from PIL import Image

from medjax import cli
from medjax import config as config_lib
from medjax.errors import UserError
from medjax.evaluation import curves, curves_page, curves_picture

SCORES = [0.1, 0.4, 0.5, 0.5, 0.3, 0.2]
LOSSES = [3.0, 2.0, 1.0, 1.004, 1.5, 2.0]
RECIPE = "configs/quickstart.py"


@pytest.fixture
def run(tmp_path, pytestconfig, monkeypatch):
    """A run of two stages; of the second metrics are there, until it was stopped."""
    monkeypatch.chdir(pytestconfig.rootpath)
    keys = ("metric=score", "patience=3")
    overrides = [f"--config.stages.base_lora.early_stopping.{key}" for key in keys]
    workdir = tmp_path / "run"
    (workdir / "base_lora").mkdir(parents=True)
    config = config_lib.load(RECIPE, overrides)
    (workdir / "config.json").write_text(json.dumps(config.to_dict()))
    lines = []
    for step in range(5, 605, 5):
        row = {"step": step, "epoch": step / 200, "loss": 1000.0 / step, "grad_norm": 1.0}
        if step % 100 == 0:
            place = step // 100 - 1
            row |= {"validation/loss": LOSSES[place], "validation/score": SCORES[place]}
            row |= {"validation/exact_match": SCORES[place], "validation/loss/t1": 0.5}
        lines.append(json.dumps(row))
    text = "\n".join(lines) + '\n{"step": 605, "lo'  # cut short by a kill
    (workdir / "base_lora" / "metrics.jsonl").write_text(text)
    return workdir


@pytest.fixture
def found(run):
    (found,) = curves.of_run(run)
    return found


def test_curves(found):
    assert (found.stage, found.unit, found.steps, found.planned) == (
        "base_lora",
        "epoch",
        600,
        2400,
    )
    assert set(found.train) == {"loss"}  # neither what validation does not tell nor its own
    assert set(found.validation) == {"loss", "score", "exact_match", "loss/t1"}
    assert found.validation["loss"] == curves.Curve((0.5, 1.0, 1.5, 2.0, 2.5, 3.0), (*LOSSES,))
    assert len(found.train["loss"].x) == 120
    assert found.end == 3.0
    first, second, *_ = found.evaluations
    assert first["train loss"] == pytest.approx(np.mean([1000 / s for s in range(5, 105, 5)]))
    assert second["train loss"] == pytest.approx(np.mean([1000 / s for s in range(105, 205, 5)]))
    assert (second["step"], second["epoch"], second["loss"]) == (200, 1.0, 2.0)


def test_best_rise_and_stop(found):
    # Of equals the earliest is best, as the checkpoints say; 1.004 is as good as the lowest loss.
    assert (found.metric, found.best, found.risen, found.stopped) == ("score", 2, 3, True)
    assert found.told() == (
        "stopped early after 600 of 2,400 steps; best validation score 0.5 at step 300 (epoch 1.5);"
        " overfitting from step 400 (epoch 2)"
    )


@pytest.mark.parametrize(
    ("losses", "place"),
    [
        ([3, 2, 1], None),
        ([3, 1, 2], None),  # one may be chance
        ([3, 1, 2, 2], 1),
        ([3, 1, 2, 1.005, 2, 3], 3),  # it came back
        ([3, 1, 1.001, 1.002, 1.003], None),
        ([1, 2, float("nan"), 3], 0),
        ([float("nan")], None),
        ([], None),
    ],
)
def test_risen_for_good(losses, place):
    assert curves.risen(losses) == place


def test_bins_are_means():
    curve = curves.Curve(tuple(range(7)), (1.0, 3.0, 5.0, 1.0, 1.0, 2.0, 4.0))
    assert curve.binned(7) is curve
    assert curve.binned(3) == curves.Curve((1.0, 3.5, 5.5), (3.0, 1.0, 3.0))


def test_files_of_before_epochs_have_steps(run):
    path = run / "base_lora" / "metrics.jsonl"
    path.write_text('{"step": 5, "loss": 2.0}\n{"step": 10, "epoch": 1.0, "loss": 1.0}\n')
    (found,) = curves.of_run(run)
    assert found.unit == "step"
    assert found.train["loss"] == curves.Curve((5, 10), (2.0, 1.0))
    assert (found.best, found.risen, found.stopped) == (None, None, False)
    assert found.told() == "10 steps"
    assert "Nothing was validated." in curves_page.render([found], title="t")


def test_the_picture_shades_what_is_overfitted(found, tmp_path):
    """Right of the last good evaluation the picture is tinted; of a run that did not, nowhere."""
    tinted = {}
    few = dataclasses.replace(found, validation={"loss": found.validation["loss"]})
    for name, stage in {"risen": few, "not": dataclasses.replace(few, risen=None)}.items():
        curves_picture.write_png(tmp_path / f"{name}.png", [stage], title="Curves")
        with Image.open(tmp_path / f"{name}.png") as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        tinted[name] = int((abs(pixels - (0xF3, 0xD9, 0xCF)).sum(-1) < 6).sum())
    assert tinted["risen"] > 10_000
    assert tinted["not"] < 1000


def test_the_page_has_the_numbers(found):
    page = curves_page.render([found], title="Curves of <run>")
    assert "Curves of &lt;run&gt;" in page
    assert "<script" not in page
    marks = ["", "", "best", "", "overfitting", "overfitting, stopped early"]
    for place, mark in enumerate(marks):
        row = page.split("<tr ")[place + 1]
        assert f">{LOSSES[place]:,.5g}</td>" in row
        assert f"<td>{mark}</td></tr>" in row


@pytest.fixture
def command(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["curves.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.run(tool.main)
        return exit_.value.code, *capsys.readouterr()

    return run


def test_the_command(command, run, tmp_path):
    output = tmp_path / "new" / "c.png"
    output.parent.mkdir()
    code, out, err = command(f"--workdir={run}", f"--output={output}", "--html", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert (report["png"], report["html"]) == (str(output), str(output.with_suffix(".html")))
    (stage,) = report["stages"]
    assert (stage["best"]["step"], stage["overfitting_from"]["step"]) == (300, 400)
    assert (stage["stopped_early"], len(stage["evaluations"])) == (True, 6)
    assert "base_lora: stopped early after 600" in err
    assert Image.open(output).size[0] > 600
    assert output.with_suffix(".html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir={run}", "--stage=lora"], "has no stage 'lora'; it has base, base_lora"),
        (["--workdir={run}", "--stage=base"], "stage base is not trained yet"),
        (["--workdir={run}", "--output=c.pdf"], "does not end in .png"),
        (["--workdir={run}/base_lora"], "is no workdir of a run"),
        (["--workdir={run}", "--output={run}/config.json/c.png"], "cannot be written"),
    ],
)
def test_mistakes(command, run, arguments, message):
    code, out, err = command(*(a.format(run=run) for a in arguments))
    assert (code, out) == (2, "")
    assert message in err


def test_metrics_that_are_no_text(run):
    (run / "base_lora" / "metrics.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"metrics.jsonl: these metrics cannot be read"):
        curves.of_run(run)
