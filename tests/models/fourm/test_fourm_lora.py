"""Adapters on 4M, by the same surgery as on PaliGemma."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from medjax.errors import UserError
from medjax.models import lora, params
from medjax.models.fourm import FourM

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ATTENTIONS = (("encoder", "self_attn"), ("decoder", "self_attn"), ("decoder", "cross_attn"))


@pytest.fixture
def model(build, config) -> FourM:
    return build(config(gated=True, num_kv_heads=2))


def adapt(model, **options) -> list[str]:
    values = dict(rank=2, alpha=6, targets=TARGETS, towers=("encoder", "decoder"))
    return lora.apply(model, lora.LoRAConfig(**{**values, **options}), rngs=nnx.Rngs(1))


def test_what_is_wrapped(model):
    paths = adapt(model)
    attentions = {f"{tower}/layers/{name}/{p}" for tower, name in ATTENTIONS for p in TARGETS[:4]}
    mlps = {f"{tower}/layers/mlp/{p}" for tower in ("encoder", "decoder") for p in TARGETS[4:]}
    assert set(paths) == attentions | mlps
    assert len(params.trainable_names(model)) == 2 * len(paths)
    shapes = {n: v.shape for n, v in params.flatten(nnx.state(model, nnx.LoRAParam)).items()}
    assert shapes["decoder/layers/cross_attn/k_proj/lora_a"] == (2, 16, 2)
    assert shapes["decoder/layers/cross_attn/k_proj/lora_b"] == (2, 2, 8)


def test_a_part_of_the_model_alone(model):
    assert adapt(model, targets=("q_proj",), towers=("decoder",)) == [
        "decoder/layers/cross_attn/q_proj",
        "decoder/layers/self_attn/q_proj",
    ]


def test_a_new_adapter_changes_nothing_and_a_merged_one_what_it_learned(model, batch):
    valid = batch.decoder.valid
    plain = np.asarray(model.hidden(*batch))[valid]
    names = set(params.flatten(model))
    adapt(model)
    np.testing.assert_array_equal(np.asarray(model.hidden(*batch))[valid], plain)
    rng = np.random.default_rng(2)
    for _, layer in lora.adapters(model):
        b = 0.1 * rng.standard_normal(layer.lora_b.get_value().shape)
        layer.lora_b.set_value(jnp.asarray(b, jnp.float32))
    learned = np.asarray(model.hidden(*batch))[valid]
    assert np.abs(learned - plain).max() > 0.1
    lora.fold(model)
    assert set(params.flatten(model)) == names
    # Sums of float32 in another order.
    np.testing.assert_allclose(np.asarray(model.hidden(*batch))[valid], learned, atol=1e-5)


def test_what_a_model_lacks_is_named(build, config):
    plain = build(config())
    with pytest.raises(UserError, match="no layer of encoder, decoder is called gate_proj"):
        adapt(plain)
    with pytest.raises(UserError, match=r"lora.towers: 'tower' is none of .* encoder, decoder"):
        adapt(plain, towers=("tower",))
