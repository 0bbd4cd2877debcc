"""big_vision's checkpoints become medjax's and transformers' models with big_vision's logits."""

import agreement
import numpy as np
import peers
import pytest

from medjax.checkpoints import big_vision, hf_config, huggingface, probe
from medjax.errors import UserError
from medjax.models import config as model_config


def transformers_has(folder) -> bool:
    try:
        hf_config.check(model_config.load(folder / "config.json"))
    except UserError:
        return False
    return True


SETS = [folder for folder in agreement.recorded_sets() if transformers_has(folder)]


@pytest.fixture(params=SETS, ids=agreement.label)
def reference(request):
    """(folder, its opened checkpoint, what went into the model, the logits that came out)."""
    folder = request.param
    config = model_config.load(folder / "config.json")
    io = np.load(folder / "io.npz")
    question = probe.Probe(io["image"], io["text"][:, :-1], io["mask_ar"][:, :-1])
    return folder, big_vision.open_npz(folder / "params.npz", config), question, io["logits"]


def test_npz_has_big_visions_logits_here_and_in_transformers(reference, tmp_path):
    folder, checkpoint, question, wanted = reference
    # Our own sets' logits are below 10, where float32 resolves 1e-6; sums differ in their order.
    tolerance = 1e-5 if agreement.is_own(folder) else 2e-4
    here = probe.logits(checkpoint, question)
    np.testing.assert_allclose(here, wanted, rtol=0, atol=tolerance)
    huggingface.write_folder(checkpoint, tmp_path / "hf")
    there = peers.huggingface_logits(tmp_path / "hf", question)
    np.testing.assert_allclose(there, wanted, rtol=0, atol=tolerance)


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
