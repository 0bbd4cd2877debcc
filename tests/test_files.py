"""Whole or not at all: what a kill left behind goes with the next writing, what is alive stays."""

import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from medjax.checkpoints.files import new_folder
from medjax.files import Temporary, write_whole


def hidden(folder: pathlib.Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_a_file_is_written(tmp_path):
    path = tmp_path / "new" / "a.json"
    for content in (b"one", b"two"):
        write_whole(path, content)
        assert path.read_bytes() == content
    assert [child.name for child in path.parent.iterdir()] == ["a.json"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_failure_leaves_all_as_it_was(tmp_path):
    write_whole(tmp_path / "a", b"one")
    with pytest.raises(TypeError):
        write_whole(tmp_path / "a", "text")
    assert (tmp_path / "a").read_bytes() == b"one"
    assert [child.name for child in tmp_path.iterdir()] == ["a"]


KILLED = """
import os, pathlib, signal, sys
from medjax.files import Temporary

with Temporary(pathlib.Path(sys.argv[1])) as folder:
    (folder / "half").write_bytes(b"x")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("name", ["model", "results [1].json"])
def test_what_a_kill_left_is_removed(tmp_path, name):
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / name])
    assert done.returncode == -signal.SIGKILL
    assert len(hidden(tmp_path)) == 1
    write_whole(tmp_path / "another", b"")
    assert len(hidden(tmp_path)) == 1
    if name == "model":
        with new_folder(tmp_path / name, markers=()) as folder:
            (folder / "whole").write_bytes(b"x")
    else:
        write_whole(tmp_path / name, b"")
    assert hidden(tmp_path) == []


def test_another_writer_is_left_alone(tmp_path):
    with Temporary(tmp_path / "model") as ours:
        (ours / "half").write_bytes(b"x")
        with new_folder(tmp_path / "model", markers=()) as theirs:
            (theirs / "whole").write_bytes(b"x")
        assert (ours / "half").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_folders_of_another_kind_are_left_alone(tmp_path):
    (tmp_path / ".model.mine").mkdir()
    (tmp_path / ".model.json").write_bytes(b"x")
    write_whole(tmp_path / "model", b"")
    assert sorted(hidden(tmp_path)) == [".model.json", ".model.mine"]


def _write_often(path: pathlib.Path) -> None:
    for number in range(200):
        write_whole(path, str(number).encode())


def test_many_writers_of_one_file(tmp_path):
    """Each finishes, though all of them look for what others left behind."""
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_often, args=(tmp_path / "a",)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert (tmp_path / "a").read_bytes() == b"199"
    assert hidden(tmp_path) == []
