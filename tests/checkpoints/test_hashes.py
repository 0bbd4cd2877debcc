import os
import pathlib
import time

import pytest

from medjax import cache
from medjax.checkpoints import files, hashes
from medjax.checkpoints.hashes import remembered_hash
from medjax.errors import UserError


@pytest.fixture
def read(tmp_path, monkeypatch) -> list[str]:
    """The names of the files whose bytes have been hashed, with a clock that is far ahead."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hashes.time, "time_ns", lambda: time.monotonic_ns() + 2**62)
    names: list[str] = []
    file_hash = files._file_hash

    def counted(path):
        names.append(path.name)
        return file_hash(path)

    monkeypatch.setattr(files, "_file_hash", counted)
    return names


@pytest.fixture
def weights(tmp_path) -> pathlib.Path:
    (tmp_path / "w" / "sub").mkdir(parents=True)
    (tmp_path / "w" / "a.safetensors").write_bytes(b"one")
    (tmp_path / "w" / "sub" / "b.safetensors").write_bytes(b"two")
    return tmp_path / "w"


def touch(path: pathlib.Path, ns: int) -> None:
    os.utime(path, ns=(ns, ns))


@pytest.mark.parametrize("place", [".", "a.safetensors"])
def test_a_hash_is_computed_once_and_told_of(weights, read, place, capsys):
    path = weights / place
    first = remembered_hash(path)
    assert first == files.content_hash(path)
    assert f"computing the hash of {path}" in capsys.readouterr().err
    read.clear()
    assert remembered_hash(path) == first
    (weights.parent / "link").symlink_to(path)
    assert remembered_hash(weights.parent / "link") == first
    assert (read, capsys.readouterr().err) == ([], "")


@pytest.mark.parametrize(
    "change",
    [
        lambda w: (w / "sub" / "b.safetensors").write_bytes(b"three"),
        # Of the same size, with the time stamp put back.
        lambda w: ((w / "a.safetensors").write_bytes(b"eno"), touch(w / "a.safetensors", 10**18)),
        lambda w: (w / "a.safetensors").rename(w / "c.safetensors"),
        lambda w: (w / "new").write_bytes(b""),
        lambda w: (w / "sub" / "b.safetensors").unlink(),
    ],
    ids=["size", "content", "name", "new", "gone"],
)
def test_any_change_means_hashing_anew(weights, read, change):
    touch(weights / "a.safetensors", 10**18)
    before = remembered_hash(weights)
    change(weights)
    after = remembered_hash(weights)
    assert after == files.content_hash(weights)
    assert after != before


def test_a_touched_file_is_read_again(weights, read):
    before = remembered_hash(weights)
    touch(weights / "a.safetensors", 10**18)
    read.clear()
    assert remembered_hash(weights) == before
    assert read == ["a.safetensors", "b.safetensors"]


def test_what_changed_just_now_is_not_remembered(weights, read, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(weights.parent / "cache"))
    remembered_hash(weights)
    assert not cache.folder().exists()


def test_a_file_that_changes_meanwhile_is_not_remembered(weights, read, monkeypatch):
    content_hash = files.content_hash

    def slow(path):
        (weights / "a.safetensors").write_bytes(b"longer")
        return content_hash(path)

    monkeypatch.setattr(hashes, "content_hash", slow)
    remembered_hash(weights)
    assert not cache.folder().exists()


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"files": 3', "null"])
def test_a_damaged_note_is_not_believed(weights, read, damage):
    before = remembered_hash(weights)
    (note,) = (cache.folder() / "hashes").iterdir()
    note.write_text(damage)
    assert remembered_hash(weights) == before == files.content_hash(weights)
    read.clear()
    assert remembered_hash(weights) == before
    assert read == []


def test_a_cache_that_cannot_be_written_to(weights, read):
    cache.folder().parent.write_text("a file, where a folder would be")
    assert remembered_hash(weights) == files.content_hash(weights)


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="none does not exist"):
        remembered_hash(tmp_path / "none")
