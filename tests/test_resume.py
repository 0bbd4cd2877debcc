"""Killed, told to stop, or left alone: a run ends in the same parameters, to the last bit."""

import json
import signal
import subprocess
import sys
import time

import pytest

STEPS, EVERY = 120, 10


@pytest.fixture(scope="module")
def arguments(tiny_run):
    """A run of many small steps, with dropout and accumulation, that saves often."""
    changes = {
        "steps": STEPS,
        "checkpoint_every": EVERY,
        "eval_every": 3 * EVERY,
        "log_every": 10,
        "data.test.own.source": "",
        "export.huggingface": False,
    }
    kept = [a for a in tiny_run if a.split("=")[0].removeprefix("--config.") not in changes]
    return [*kept, *(f"--config.{key}={value}" for key, value in changes.items())]


@pytest.fixture(scope="module")
def whole(arguments, tmp_path_factory):
    """The workdir of a run that nothing disturbed."""
    from medjax import config as config_lib
    from medjax import pipelines

    path = tmp_path_factory.mktemp("whole") / "run"
    recipe, *overrides = arguments
    pipelines.run(config_lib.load(recipe.removeprefix("--config="), overrides), path)
    return path


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda n: n.name)
def test_the_same_bits_after_a_signal(arguments, whole, tmp_path, command, number):
    path = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "medjax.train", *arguments, f"--workdir={path}", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        _wait_for_checkpoint(process, path)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    stage = path / "train"
    assert not (stage / "model").exists(), "it was over before the signal came"
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 0, err
        assert "all is saved. The same command continues." in err
        stopped = max(_saved(stage))
        assert json.loads(out) == {"interrupted": f"train: stopped at step {stopped}; all is saved"}

    done = command("train", *arguments, f"--workdir={path}")
    assert done.code == 0, done.err
    assert "continuing from step " in done.err
    for name in ("lora.safetensors", "lora.json", "model.json", "tokenizer.model"):
        ours, theirs = (p / "train" / "model" / name for p in (path, whole))
        assert ours.read_bytes() == theirs.read_bytes(), name

    ours, theirs = (_lines(p / "train" / "metrics.jsonl") for p in (path, whole))
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for line, wanted in zip(ours, theirs, strict=True):
        assert line.get("validation/loss") == wanted.get("validation/loss")
    # What is a mean over whole windows is the same, too.
    assert ours[-1]["loss"] == theirs[-1]["loss"]


def test_dropout_was_on(whole):
    # Otherwise the test above would say little.
    config = json.loads((whole / "config.json").read_text())
    assert config["lora"]["dropout"] > 0
    assert config["accumulation"] > 1


def _wait_for_checkpoint(process, path) -> None:
    deadline = time.monotonic() + 120
    while not _saved(path / "train"):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "no checkpoint came"
        time.sleep(0.005)


def _saved(stage) -> list[int]:
    """Steps of the checkpoints that are whole: others have another name."""
    folder = stage / "checkpoints"
    return [int(p.name) for p in folder.iterdir() if p.name.isdigit()] if folder.exists() else []


def _lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]
