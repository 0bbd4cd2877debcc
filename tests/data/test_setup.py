"""Sources as a config names them."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from medjax import config as config_lib
from medjax.data import setup


@pytest.fixture
def config(tmp_path):
    """Two test files of one name, whose rows have no ids."""
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "a.png")
    sources = {}
    for site, rows in {"a": 5, "b": 2}.items():
        path = tmp_path / site / "test.jsonl"
        path.parent.mkdir()
        lines = [{"image": "a.png", "prefix": f"{site} {i}?", "suffix": "no"} for i in range(rows)]
        path.write_text("\n".join(map(json.dumps, lines)))
        sources[site] = {"source": str(path), "image_root": str(tmp_path)}
    return config_lib.resolve(ConfigDict({"data": {"test": sources}}))


def test_ids_of_several_sources_begin_with_their_names(config):
    joined = setup.Joined(setup.open_sources(config, "test"))
    ids = [f"a/test.jsonl:{i}" for i in range(1, 6)] + [f"b/test.jsonl:{i}" for i in (1, 2)]
    assert [joined[i].id for i in range(len(joined))] == ids
    assert joined[6].prefix == "b 1?"
    assert [joined[i].extra["source_name"] for i in (0, 6)] == ["a", "b"]


def test_ids_of_one_source_are_its_own(config):
    del config.data.test["a"]
    joined = setup.Joined(setup.open_sources(config, "test"))
    assert [joined[i].id for i in range(len(joined))] == ["test.jsonl:1", "test.jsonl:2"]


def test_a_limit_takes_evenly_spaced_examples_of_each(config):
    joined = setup.Joined(setup.open_sources(config, "test"), limit=2)
    assert [joined[i].prefix for i in range(len(joined))] == ["a 0?", "a 2?", "b 0?", "b 1?"]
