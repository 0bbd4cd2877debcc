"""Training by phases, killed in the second and continued: the same bits as if nothing happened."""

import json
import pathlib
import signal
import subprocess
import sys
import time

from medjax import config as config_lib
from medjax.pipelines.paligemma import stage as stages

RECIPE = pathlib.Path(__file__).parents[3] / "configs" / "medpix_lora.py"


def test_the_same_bits_after_a_kill_in_the_second_phase(
    built_medpix, tiny_weights, tmp_path, command
):
    values = {
        "model": tiny_weights / "tiny.json",
        "init": tiny_weights / "tiny.npz",
        "tokenizer": tiny_weights / "tokenizer.model",
        "image_size": 28,
        "text_length": 24,
        "accumulation": 2,
        "optimizer.learning_rate": 0.03,
        "lora.dropout": 0.1,
        "remat": "none",
        "data.dir": built_medpix.data_dir,
        "data.manual_dir": built_medpix.folder.parent,
        "data.conditioning.leaks": built_medpix.settings.leaks,
        "data.phases": "(0.2, 0.5)",
        "data.validation.medpix.source": "",
        "data.test.medpix.source": "",
        "restore_best": False,
        "eval_every": 0,
        "log_every": 5,
        "checkpoint_every": 3,
        "export.huggingface": False,
    }
    overrides = [f"--config.{key}={value}" for key, value in values.items()]
    arguments = [f"--config={RECIPE}", *overrides]
    first = _first_phase(config_lib.load(str(RECIPE), overrides))

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen(
        [sys.executable, "-m", "medjax.train", *arguments, f"--workdir={killed}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while max(_saved(killed), default=0) <= first + 3:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, "no checkpoint came"
            time.sleep(0.005)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (killed / "train" / "model").exists(), "it was over before it was killed"

    done = command("train", *arguments, f"--workdir={killed}")
    assert done.code == 0, done.err
    assert "continuing from step " in done.err
    done = command("train", *arguments, f"--workdir={whole}")
    assert done.code == 0, done.err
    ours, theirs = (path / "train" for path in (killed, whole))
    name = "model/lora.safetensors"
    assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    last, wanted = (_lines(path / "metrics.jsonl")[-1] for path in (ours, theirs))
    assert (last["step"], last["loss"]) == (wanted["step"], wanted["loss"])
    assert last["step"] > first + 10


def _first_phase(config) -> int:
    """How many steps it has."""
    from medjax.data import setup

    sources = setup.open_sources(config, "train")
    phases = stages._phases("train", config, sources)
    assert [phase.names for phase in phases] == [("alphabet",), ("cases", "rehearsal")]
    asked = [
        {source[i].extra["mode"] for i in range(len(source))} for source, _ in sources.values()
    ]
    assert sorted(map(sorted, asked)) == [["alignment"], ["pre_training"], ["pre_training"]]
    return phases[0].batches


def _saved(workdir) -> list[int]:
    folder = workdir / "train" / "checkpoints"
    return [int(p.name) for p in folder.iterdir() if p.name.isdigit()] if folder.exists() else []


def _lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]
