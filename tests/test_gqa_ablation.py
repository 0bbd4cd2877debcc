"""The command that compares numbers of key/value heads, over a small run of 4M."""

import json
import math
import shutil
import sys

import gqa_ablation
import pytest

from medjax import cli, workdir
from medjax import config as config_lib
from medjax.checkpoints import tensors
from medjax.pipelines.fourm import heads, timing
from medjax.pipelines.weights import open_result


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


def test_a_model_is_trained_and_measured(run, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out"
    arguments = (f"--workdir={run}", f"--output={output}", "--kv-heads=2", "--steps=3")
    assert command(monkeypatch, *arguments, "--rounds=2", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((output / "gqa.json").read_text())
    assert (output / "gqa.png").is_file()
    (found,) = told["variants"]
    assert (found["kv_heads"], told["num_heads"], told["steps"]) == (2, 4, 3)
    # k_proj and v_proj of an encoder's layer and, twice, of a decoder's: 2 heads of 8 numbers less.
    whole = tensors.specs(open_result(run / "fourm" / "model").checkpoint.config)
    assert found["parameters"] == sum(map(math.prod, whole.values())) - 3 * 2 * 32 * 16
    row = json.loads((output / "kv2/train/metrics.jsonl").read_text().splitlines()[-1])
    assert found["validation"]["loss"] == row["validation/loss"]
    results = json.loads((output / "kv2/evaluation/results.json").read_text())
    dice = results["tasks"]["t1 -> tok_tissue"]["dice"]["systems"]["4M"]
    assert found["scores"]["t1 -> tok_tissue"] == {"metric": "dice", **dice}
    assert set(found["milliseconds"]) == {"train_step", "token", "image"}
    # One decoder layer's keys and values of 2 heads of 8 numbers of 4 bytes, of the masking's most.
    assert found["cache_bytes"] == {"past": 64 * 128, "context": 144 * 128}
    assert found["cache_bytes_by_formula"] == found["cache_bytes"]

    # All else is the run's, and the same command would find it trained.
    before, after = (workdir.read_config(path) for path in (run, output / "kv2"))
    assert config_lib.stage_names(after) == ("train",)
    assert after.seed == before.seed
    assert after.optimizer.learning_rate == before.stages.fourm.optimizer.learning_rate
    workdir.check(output / "kv2", heads.variants(run, [4, 2], 3)[2])
    assert workdir.Workdir.of(output / "kv2").model("train").exists()


def test_a_model_by_its_name_and_fewer_steps(run):
    config = json.loads((run / "config.json").read_text())
    config["stages"]["fourm"]["model"] = "fm_tiny_6e_6d_gelu"
    (run / "config.json").write_text(json.dumps(config))
    found = heads.variants(run, [1, 4, 1], steps=3)
    assert list(found) == [4, 1]  # the most first, each once
    assert (found[1].model.width, found[1].model.num_kv_heads) == (384, 1)
    # Of 6 steps 2 were the warm-up.
    assert (found[1].steps, found[1].optimizer.warmup_steps) == (3, 1)


def test_models_take_turns_and_the_first_rounds_do_not_count():
    calls = []

    def task(name, parts=1):
        return timing.Task(name, lambda: calls.append(name), parts)

    models = [{"step": task(x), "token": task(x.upper(), 10**9)} for x in "ab"]
    seconds = timing.in_turns(models, rounds=3)
    assert "".join(calls) == 5 * "abAB"
    assert [{key: len(times) for key, times in of.items()} for of in seconds] == 2 * [
        {"step": 3, "token": 3}
    ]
    assert max(seconds[0]["token"]) < min(seconds[0]["step"])


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
