"""The command that compares numbers of key/value heads, over a small run of 4M."""

import json
import shutil
import sys

import gqa_ablation
import pytest

from medjax import cli, workdir


def command(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["gqa_ablation.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        cli.run(gqa_ablation.main)
    return exit_.value.code


@pytest.fixture
def run(fourm_run, tmp_path):
    """A copy of the run that also asks for a text."""
    copy = tmp_path / "run"
    shutil.copytree(fourm_run, copy, ignore=shutil.ignore_patterns("checkpoints"))
    config = json.loads((copy / "config.json").read_text())
    config["evaluate"]["directions"].append("t1 -> det")
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def test_two_models_trained_measured_and_not_trained_again(run, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out"
    arguments = (f"--workdir={run}", f"--output={output}", "--kv-heads=1,4", "--steps=3")
    assert command(monkeypatch, *arguments, "--rounds=2", "--json") == 0
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert told == json.loads((output / "gqa.json").read_text())
    full, one = told["variants"]
    assert (full["kv_heads"], one["kv_heads"], told["num_heads"]) == (4, 1, 4)
    # k_proj and v_proj of an encoder's and twice of a decoder's layer: 3 heads of 8 numbers fewer.
    assert full["parameters"] - one["parameters"] == 3 * 2 * 32 * 24
    for variant in (full, one):
        assert 0 < variant["validation"]["loss"] < 10
        assert variant["scores"]["t1 -> tok_tissue"]["metric"] == "dice"
        assert variant["cache_bytes"] == variant["cache_bytes_by_formula"]
        assert set(variant["milliseconds"]) == {"train_step", "token", "image"}
    assert full["cache_bytes"]["context"] == 4 * one["cache_bytes"]["context"]
    assert full["relative"]["image"] == {"min": 1.0, "median": 1.0, "max": 1.0}
    before, after = (workdir.read_config(path) for path in (run, output / "kv1"))
    assert after.seed == before.seed
    assert after.model.num_kv_heads == 1
    assert after.optimizer.learning_rate == before.stages.fourm.optimizer.learning_rate
    assert (output / "gqa.png").is_file()

    assert command(monkeypatch, *arguments, "--rounds=1") == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(output / "gqa.md")
    assert said.err.count("trained already") == 2
    assert json.loads((output / "gqa.json").read_text())["variants"][0]["scores"] == full["scores"]


def test_what_is_wrong_is_told_before_anything_is_trained(run, tmp_path, monkeypatch, capsys):
    def refused(*arguments) -> str:
        output = tmp_path / "out"
        code = command(monkeypatch, f"--workdir={run}", f"--output={output}", *arguments)
        assert code == 2
        assert not output.exists()
        return capsys.readouterr().err

    assert "3 key/value heads: model: num_heads 4 is no multiple" in refused("--kv-heads=4,3")
    config = json.loads((run / "config.json").read_text())

    def change(**changes) -> None:
        (run / "config.json").write_text(json.dumps({**config, **changes}))

    stages = config["stages"]
    change(stages=stages | {"fourm": stages["fourm"] | {"init": "weights"}})
    assert "fourm may begin with weights" in refused()
    change(data=config["data"] | {"test": {}})
    assert "data.test names no source" in refused()
    shutil.rmtree(run / "fourm" / "model")
    assert "fourm is not trained yet" in refused()
    del stages["fourm"]
    change(stage_order=[name for name in stages])
    assert "has no stage of kind fourm" in refused()
    (run / "config.json").unlink()
    assert "is no workdir of a run" in refused()
