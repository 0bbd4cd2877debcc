"""big_vision's checkpoints become medjax's and transformers' models with big_vision's logits.

Every reference set is taken that config.json marks as a PaliGemma (keys `llm` and `img`).
"""

import importlib.util
import json
import os
import pathlib

import numpy as np
import pytest

from medjax.checkpoints import big_vision, huggingface, probe
from medjax.models import config as model_config

_PEERS = pathlib.Path(__file__).parents[2] / "tools" / "peers.py"
_SPEC = importlib.util.spec_from_file_location("peers", _PEERS)
peers = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(peers)

REFERENCE = pathlib.Path(
    os.environ.get("MEDJAX_REFERENCE") or pathlib.Path(__file__).parents[1] / "reference"
)


def sets() -> list[pathlib.Path]:
    return [
        file.parent
        for file in sorted(REFERENCE.glob("*/config.json"))
        if {"llm", "img"} <= set(json.loads(file.read_text()))
    ]


@pytest.fixture(params=sets(), ids=lambda folder: folder.name)
def reference(request):
    """(folder, its opened checkpoint, what went into the model, the logits that came out)."""
    folder = request.param
    config = model_config.load(folder / "config.json")
    io = np.load(folder / "io.npz")
    question = probe.Probe(io["image"], io["text"][:, :-1], io["mask_ar"][:, :-1])
    return folder, big_vision.open_npz(folder / "params.npz", config), question, io["logits"]


def test_there_are_reference_sets():
    assert len(sets()) >= 2


def test_npz_has_big_visions_logits_here_and_in_transformers(reference, tmp_path):
    _, checkpoint, question, wanted = reference
    # 1e-5 absolute: logits are below 10, where float32 resolves 1e-6; sums differ in their order.
    here = probe.logits(checkpoint, question)
    np.testing.assert_allclose(here, wanted, rtol=0, atol=1e-5)
    huggingface.write_folder(checkpoint, tmp_path / "hf")
    there = peers.huggingface_logits(tmp_path / "hf", question)
    np.testing.assert_allclose(there, wanted, rtol=0, atol=1e-5)


def test_npz_survives_the_way_through_hugging_face(reference, tmp_path):
    folder, checkpoint, _, _ = reference
    huggingface.write_folder(checkpoint, tmp_path / "hf")
    again = huggingface.open_folder(tmp_path / "hf")
    assert again.config == checkpoint.config
    big_vision.write_npz(again, tmp_path / "again.npz")
    with np.load(tmp_path / "again.npz") as found, np.load(folder / "params.npz") as wanted:
        assert set(found) == set(wanted)
        for name in wanted:
            np.testing.assert_array_equal(found[name], wanted[name])
