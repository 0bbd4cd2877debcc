"""A run's folder belongs to one config and is left alone by every other."""

import json

import pytest
from ml_collections import ConfigDict

from medjax import config as config_lib
from medjax import workdir as workdir_lib
from medjax.errors import UserError


def config(**keys) -> ConfigDict:
    return config_lib.resolve(ConfigDict(keys))


@pytest.fixture
def path(tmp_path):
    """A run's folder, begun."""
    path = tmp_path / "runs" / "one"
    begun = config(steps=3, stages=ConfigDict({"a": {"log_every": 5, "batch_size": 8}}))
    workdir_lib.create(workdir_lib.check(path, begun), begun)
    return path


def test_checking_writes_nothing(tmp_path):
    workdir = workdir_lib.check(tmp_path / "new" / "run", config())
    assert workdir.path == tmp_path / "new" / "run"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty").mkdir()
    workdir_lib.check(tmp_path / "empty", config())


def test_a_folder_whose_creation_was_killed(tmp_path):
    (tmp_path / ".config.json.x1").mkdir()
    workdir_lib.check(tmp_path, config())


def test_what_is_written_is_the_config(path):
    assert [child.name for child in path.iterdir()] == ["config.json"]
    assert workdir_lib.read_config(path).steps == 3
    assert json.loads((path / "config.json").read_text())["optimizer"]["optax_name"] == "adamw"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 4}, "steps was 3 and is now 4"),
        ({"seed": 1}, "seed was 0 and is now 1"),
        ({"lora": {"targets": ("q_proj",)}}, "lora.targets was .*'v_proj'.* is now"),
        ({"stages": {"a": {"batch_size": 4}}}, "stages.a.batch_size was 8 and is now 4"),
        ({"stages": {"b": {"batch_size": 8}}}, "stages.a.batch_size was 8 and is now 'not set'"),
        ({"data": {"train": {"x": {"source": "x.jsonl"}}}}, "data.train.x.folder was 'not set'"),
    ],
)
def test_another_config(path, change, message):
    keys = {"steps": 3, "stages": {"a": {"log_every": 5, "batch_size": 8}}} | change
    before = (path / "config.json").read_bytes()
    with pytest.raises(UserError, match=message) as error:
        workdir_lib.check(path, config(**{k: _config(v) for k, v in keys.items()}))
    assert str(path) in str(error.value)
    assert (path / "config.json").read_bytes() == before


def _config(value):
    return ConfigDict(value) if isinstance(value, dict) else value


def test_what_changes_no_weights_may_differ(path):
    other = config(
        steps=3,
        stages=ConfigDict({"a": {"log_every": 1, "batch_size": 8}}),
        data=ConfigDict({"workers": 2, "image_cache_mib": 0}),
        decode=ConfigDict({"max_new_tokens": 3}),
        evaluate=ConfigDict({"examples": 2}),
        checkpoint_every=1,
    )
    workdir_lib.create(workdir_lib.check(path, other), other)
    assert workdir_lib.read_config(path).decode.max_new_tokens == 3


def test_a_folder_of_other_things(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"x")
    for path in (tmp_path, tmp_path / "photo.jpg"):
        with pytest.raises(UserError, match="holds something else"):
            workdir_lib.check(path, config())


def test_a_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    workdir = workdir_lib.check(tmp_path / "file" / "run", config())
    with pytest.raises(UserError, match="file/run cannot be written to"):
        workdir_lib.create(workdir, config())


@pytest.mark.parametrize("content", [None, "{", '{"stepps": 3}', "[]", '"x"', b"\xff"])
def test_no_runs_folder(tmp_path, content):
    if content is not None:
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(UserError, match=r"config\.json"):
        workdir_lib.read_config(tmp_path)
