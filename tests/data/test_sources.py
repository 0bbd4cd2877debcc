import json

import numpy as np
import pytest
from PIL import Image

from medjax.data.sources import DATASETS, open_source
from medjax.errors import UserError


def test_a_path_opens_json_lines(tmp_path):
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "a.png")
    path = tmp_path / "x.jsonl"
    row = {"image": "a.png", "prefix": "q", "suffix": "a", "task": "look"}
    path.write_text(json.dumps(row) + "\n{\n")
    arguments = {"tasks": ("look",), "image_root": tmp_path, "data_dir": tmp_path / "data"}
    source = open_source(str(path), on_bad_example="skip", **arguments)
    assert [example.suffix for example in source] == ["a"]
    assert source.faults == {"invalid JSON": 1}
    with pytest.raises(UserError, match=r"x.jsonl:2"):
        open_source(str(path), **arguments)
    with pytest.raises(UserError, match=r"x.jsonl has no splits, yet split='train'"):
        open_source(str(path), split="train", **arguments)


@pytest.mark.parametrize("name", ["mni152", "rows.json", ""])
def test_an_unknown_name_lists_those_known(tmp_path, name):
    with pytest.raises(UserError, match=f"no dataset '{name}'.*{', '.join(DATASETS)}.*.jsonl"):
        open_source(name, data_dir=tmp_path)


def test_every_dataset_opens_by_its_name(tmp_path):
    # Refused for its split, before anything is built.
    for name in DATASETS:
        with pytest.raises(UserError, match=f"{name} has no split ''"):
            open_source(name, data_dir=tmp_path)
    assert not list(tmp_path.iterdir())
