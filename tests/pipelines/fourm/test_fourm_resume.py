"""Killed or told to stop, a run of 4M ends in the same files, to the last bit."""

import pathlib
import signal
import subprocess
import sys

KILLED = pathlib.Path(__file__).with_name("killed.py")


def killed(arguments, path, stage: str, step: int) -> None:
    """A process of its own that dies, as if it had lost its power, at a step of a stage."""
    run = [sys.executable, KILLED, stage, str(step), *arguments, f"--workdir={path}"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_the_same_files_after_signals(
    own_run, fourm_arguments, tmp_path, stopped, written, command
):
    path = tmp_path / "run"
    said = stopped(fourm_arguments, path, "organ_tokenizer", 3)
    assert said == "organ_tokenizer: stopped at step 3; all is saved"
    killed(fourm_arguments, path, "fourm", 5)
    assert not (path / "fourm" / "model").exists()
    done = command("train", *fourm_arguments, f"--workdir={path}")
    assert done.code == 0, done.err
    assert done.err.count("trained already") == 2
    assert "continuing from step" in done.err
    ours, theirs = written(path), written(own_run)
    assert ours.keys() == theirs.keys()
    assert "adapted/model/lora.safetensors" in ours
    for name, content in theirs.items():
        assert ours[name] == content, name
