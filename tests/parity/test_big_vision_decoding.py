"""Greedy decoding agrees with google-research/big_vision on every recorded set."""

import json

import agreement
import jax
import numpy as np
import pytest
from flax import nnx
from medjax_kernels import use

from medjax.checkpoints import big_vision
from medjax.decoding import DecodeConfig, Decoder
from medjax.models import config as model_config
from medjax.models import params
from medjax.models.paligemma import PaliGemma


@pytest.mark.parametrize("implementation", agreement.IMPLEMENTATIONS)
@pytest.mark.parametrize("folder", agreement.recorded_sets(), ids=agreement.label)
def test_greedy_decoding(folder, implementation):
    with use(attention=implementation), jax.default_matmul_precision("highest"):
        _check_greedy_decoding(folder)


def _check_greedy_decoding(folder):
    config = model_config.load(folder / "config.json")
    model = PaliGemma(config, rngs=nnx.Rngs(0))
    state = nnx.state(model, nnx.Param)
    params.assign(state, big_vision.open_npz(folder / "params.npz", config), str(folder))
    nnx.update(model, state)

    io = np.load(folder / "io.npz")
    expected, eos = io["decode_tokens"], json.loads((folder / "config.json").read_text())["eos"]
    decoder = Decoder(model, DecodeConfig(max_new_tokens=expected.shape[1]), eos_id=eos)
    answers = decoder(
        io["image"],
        io["prompt_text"],
        io["prompt_mask_ar"],
        io["prompt_mask_input"],
        keep_logits=True,
    )
    # The peer goes on behind the end of an answer until every row has ended.
    before = np.cumsum(expected == eos, axis=1) - (expected == eos)
    real = before == 0
    np.testing.assert_array_equal(answers.lengths, real.sum(axis=1))
    np.testing.assert_array_equal(np.asarray(answers.tokens)[real], expected[real])
    logits, log_probs = np.asarray(answers.logits), np.asarray(answers.log_probs)
    np.testing.assert_allclose(logits[real], io["decode_logits"][real], rtol=0, atol=2e-4)
    np.testing.assert_allclose(log_probs[real], io["decode_logp"][real], rtol=0, atol=1e-4)
