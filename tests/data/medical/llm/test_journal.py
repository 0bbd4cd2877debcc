"""The journal: what was answered stays answered."""

import json

import pytest

from medjax.data.medical.llm.journal import Answer, Journal, key_of
from medjax.errors import UserError

ANSWER = Answer("ünïcode \ud800 {}", "stop", 5, None)


def test_kept(tmp_path):
    path = tmp_path / "new" / "journal"
    with Journal(path) as journal:
        journal.add("a", ANSWER, model="m")
        assert json.loads(path.read_text())["model"] == "m"  # at once
    with Journal(path) as journal:
        assert (journal.get("a"), journal.get("b")) == (ANSWER, None)


def test_half_a_line_is_taken_off(tmp_path):
    path = tmp_path / "journal"
    with Journal(path) as journal:
        journal.add("a", ANSWER)
    line = path.read_bytes()
    path.write_bytes(line + line[:-1].replace(b'"a"', b'"b"'))
    with Journal(path) as journal:
        assert journal.get("b") is None
        journal.add("c", ANSWER)
    assert path.read_bytes() == line + line.replace(b'"a"', b'"c"')


def test_reading_alone_touches_nothing(tmp_path):
    path = tmp_path / "journal"
    Journal(path, writes=False)
    assert not path.exists()
    path.write_text('{"half')
    with Journal(path, writes=False) as journal:
        journal.add("a", ANSWER)
        assert journal.get("a") == ANSWER
    assert path.read_text() == '{"half'


@pytest.mark.parametrize("line", ["{", "[]", '{"key": "a"}', "3", '{"key": [], "text": 1}'])
def test_a_damaged_line(tmp_path, line):
    path = tmp_path / "journal"
    with Journal(path) as journal:
        journal.add("a", ANSWER)
    before = path.read_text() + line + "\n"
    path.write_text(before)
    with pytest.raises(UserError, match=r"journal:2 is no line of a journal"):
        Journal(path)
    assert path.read_text() == before


def test_one_process_at_a_time(tmp_path):
    path = tmp_path / "journal"
    with Journal(path), pytest.raises(UserError, match="in use by another process"):
        Journal(path)
    with Journal(path) as journal:
        assert journal.get("a") is None


def test_keys_are_of_content():
    key = key_of(model="m", messages=[{"a": 1, "b": 2}])
    assert key == key_of(messages=[{"b": 2, "a": 1}], model="m")
    assert key != key_of(model="n", messages=[{"a": 1, "b": 2}])
    assert len(key) == 64
