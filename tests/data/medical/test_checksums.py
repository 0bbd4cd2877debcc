"""A folder's checksum: of what its files hold, read again only when one of them was touched."""

import os
import time

import pytest

from medjax.data.medical import checksums


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Files that were written an hour ago, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("table.csv", "images/a.png", "images/b.dcm"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "data"


@pytest.fixture
def reads(monkeypatch):
    """The files that are read."""
    read = []
    of_file = checksums._of_file
    monkeypatch.setattr(checksums, "_of_file", lambda path: read.append(path.name) or of_file(path))
    return read


def _later(monkeypatch):
    """Files do not get old in a test, so the clock goes on."""
    now = time.time_ns()
    monkeypatch.setattr(checksums.time, "time_ns", lambda: now + 10 * 10**9)


@pytest.mark.parametrize("name", ["table.csv", "images/a.png", "images/b.dcm"])
def test_contents_count_even_of_equal_size_and_time(folder, monkeypatch, name):
    _later(monkeypatch)
    first = checksums.of_folder(folder)
    stat = (folder / name).stat()
    (folder / name).write_text("#" * stat.st_size)
    os.utime(folder / name, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert checksums.of_folder(folder) != first


def test_names_count_and_hidden_files_do_not(folder):
    first = checksums.of_folder(folder)
    (folder / ".git").mkdir()
    (folder / ".git" / "index").write_text("x")
    (folder / "images" / ".DS_Store").write_text("x")
    assert checksums.of_folder(folder) == first
    (folder / "table.csv").rename(folder / "tables.csv")
    renamed = checksums.of_folder(folder)
    (folder / "empty").touch()
    assert len({first, renamed, checksums.of_folder(folder)}) == 3


def test_files_are_read_once_until_one_is_touched(folder, monkeypatch, reads):
    _later(monkeypatch)
    first = checksums.of_folder(folder)
    assert sorted(reads) == ["a.png", "b.dcm", "table.csv"]
    assert checksums.of_folder(folder) == first
    assert len(reads) == 3
    os.utime(folder / "table.csv", (1, 1))
    assert checksums.of_folder(folder) == first
    assert len(reads) == 6


def test_what_has_just_changed_is_not_remembered(folder, reads):
    checksums.of_folder(folder)
    checksums.of_folder(folder)
    assert len(reads) == 6


def test_linked_folders_count_and_their_circles_end(folder, tmp_path):
    first = checksums.of_folder(folder)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "c.png").write_text("c")
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    second = checksums.of_folder(folder)
    (folder / "images" / "up").symlink_to(folder)
    (folder / "nowhere").symlink_to(folder / "gone")
    assert first != second == checksums.of_folder(folder)


def test_a_cache_that_cannot_be_written_to_is_done_without(folder, tmp_path, monkeypatch):
    _later(monkeypatch)
    first = checksums.of_folder(folder)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert checksums.of_folder(folder) == first
