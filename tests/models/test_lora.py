"""LoRA: what is wrapped, what it computes, and what is left when it is merged."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from medjax.errors import UserError
from medjax.models import lora, params
from medjax.models.config import GemmaConfig, PaliGemmaConfig, SigLIPConfig
from medjax.models.layers import Linear
from medjax.models.paligemma import PaliGemma
from medjax.models.variants import resolve

CONFIG = PaliGemmaConfig(
    image_size=28,
    img=SigLIPConfig(width=8, depth=2, mlp_dim=16, num_heads=2),
    llm=GemmaConfig(
        width=16, depth=2, mlp_dim=24, num_heads=4, num_kv_heads=2, head_dim=4, vocab_size=40
    ),
)
BOTH = lora.TOWERS
INPUTS = (
    np.random.default_rng(0).uniform(-1, 1, (2, 28, 28, 3)).astype(np.float32),
    np.random.default_rng(1).integers(3, 40, (2, 6)).astype(np.int32),
    np.array([[0, 0, 0, 1, 1, 1]] * 2, np.int32),
)


@pytest.fixture(scope="module")
def base_state():
    return nnx.state(PaliGemma(CONFIG, rngs=nnx.Rngs(0)))


def plain(base_state, dtype=jnp.float32) -> PaliGemma:
    model = nnx.eval_shape(lambda: PaliGemma(CONFIG, param_dtype=dtype, rngs=nnx.Rngs(0)))
    return nnx.merge(nnx.graphdef(model), jax.tree.map(lambda x: x.astype(dtype), base_state))


def adapted(base_state, *, learned=True, dtype=jnp.float32, **options) -> PaliGemma:
    """A model with adapters; if `learned`, with B that is not zero."""
    model = plain(base_state, dtype)
    config = lora.LoRAConfig(**{"rank": 2, "alpha": 6, "towers": BOTH} | options)
    lora.apply(model, config, rngs=nnx.Rngs(5))
    rng = np.random.default_rng(7)
    for _, layer in lora.adapters(model):
        b = 0.1 * rng.standard_normal(layer.lora_b.shape)
        if learned:
            layer.lora_b.set_value(jnp.asarray(b, jnp.float32))
    return model


def logits(model) -> np.ndarray:
    graphdef, state = nnx.split(model)
    return np.asarray(jax.jit(lambda s: nnx.merge(graphdef, s)(*INPUTS))(state))


@pytest.mark.parametrize(
    ("targets", "towers", "trainable", "total", "share"),
    [
        (lora.TARGETS, BOTH, 11_298_816, 2_934_765_296, "0.385"),
        (("q_proj", "k_proj", "v_proj", "o_proj"), BOTH, 3_336_192, 2_926_802_672, "0.114"),
    ],
    ids=["all seven", "attention"],
)
def test_golden_counts(targets, towers, trainable, total, share):
    config = lora.LoRAConfig(rank=8, alpha=16, targets=targets, towers=towers)

    def create():
        model = PaliGemma(resolve("paligemma-3b-224"), rngs=nnx.Rngs(0))
        lora.apply(model, config, rngs=nnx.Rngs(0))
        return model

    model = nnx.eval_shape(create)
    assert params.count(model, nnx.LoRAParam) == trainable
    assert params.count(model) == total
    wanted = f"{trainable:,} trainable of {total:,} parameters ({share} %)"
    assert params.trainable_share(model) == wanted


def test_what_is_wrapped(base_state):
    layers = "language_model/layers"
    attention = [f"self_attn/{x}_proj" for x in "qkvo"]
    mlp = [f"mlp/{x}_proj" for x in ("gate", "up", "down")]
    model = plain(base_state)
    paths = lora.apply(model, lora.LoRAConfig(rank=2, alpha=2), rngs=nnx.Rngs(0))
    assert sorted(paths) == sorted(f"{layers}/{x}" for x in attention + mlp)
    assert lora.targets_of(paths) == tuple(sorted(lora.TARGETS))
    both = sorted(path for path, _ in lora.adapters(adapted(base_state)))
    # PEFT's names match SigLIP's queries, keys and values, but not its out_proj and fc.
    vision = [f"vision_tower/layers/self_attn/{x}_proj" for x in "qkv"]
    assert both == sorted([*paths, *vision])


def test_a_new_adapter_changes_nothing(base_state):
    np.testing.assert_array_equal(
        logits(adapted(base_state, learned=False)), logits(plain(base_state))
    )


@pytest.mark.parametrize("init", ["kaiming", "normal"])
def test_initial_values(init):
    base = Linear(100, 60, axes=("embed", "mlp"), rngs=nnx.Rngs(0))
    config = lora.LoRAConfig(rank=50, alpha=1, init=init)
    layer = lora.LoRALinear(base, config, rngs=nnx.Rngs(1))
    a = np.asarray(layer.lora_a.get_value())
    assert np.abs(layer.lora_b.get_value()).max() == 0
    if init == "kaiming":
        # PEFT: kaiming_uniform(a=sqrt(5)), that is uniform within 1 / sqrt(in).
        assert 0.099 < np.abs(a).max() <= 0.1
        assert a.std() == pytest.approx(0.1 / 3**0.5, rel=0.05)
    else:
        assert a.std() == pytest.approx(1 / 50, rel=0.05)


def test_one_layer_computes_the_formula():
    rng = np.random.default_rng(0)
    base = Linear(6, 5, axes=("embed", "mlp"), use_bias=True, rngs=nnx.Rngs(0))
    layer = lora.LoRALinear(base, lora.LoRAConfig(rank=3, alpha=12), rngs=nnx.Rngs(1))
    b = rng.standard_normal((3, 5)).astype(np.float32)
    layer.lora_b.set_value(jnp.asarray(b))
    x = rng.standard_normal((2, 4, 6)).astype(np.float32)
    added = 4.0 * (x @ np.asarray(layer.lora_a.get_value()) @ b)
    np.testing.assert_allclose(layer(x), np.asarray(base(x)) + added, rtol=1e-4, atol=1e-5)


def test_merge_and_unmerge(base_state):
    model = adapted(base_state)
    before = params.flatten(model)
    wanted = logits(model)
    assert np.abs(wanted - logits(plain(base_state))).max() > 0.1
    lora.merge(model)
    np.testing.assert_allclose(logits(model), wanted, rtol=0, atol=2e-5)
    with pytest.raises(UserError, match="merged already"):
        lora.merge(model)
    lora.unmerge(model)
    for name, array in params.flatten(model).items():
        np.testing.assert_allclose(array, before[name], rtol=0, atol=1e-6)
    with pytest.raises(UserError, match="not merged"):
        lora.unmerge(model)


@pytest.mark.parametrize("merged", [False, True])
def test_fold_leaves_a_plain_model(base_state, merged):
    model = adapted(base_state)
    wanted = logits(model)
    if merged:
        lora.merge(model)
    lora.fold(model)
    assert set(params.flatten(model)) == set(params.flatten(plain(base_state)))
    assert not list(lora.adapters(model))
    np.testing.assert_allclose(logits(model), wanted, rtol=0, atol=2e-5)
    # Folded, it can be adapted anew.
    assert lora.apply(model, lora.LoRAConfig(rank=1, alpha=1), rngs=nnx.Rngs(0))


def test_merging_rounds_once(base_state):
    model = adapted(base_state, dtype=jnp.bfloat16)
    path = "language_model/layers/mlp/up_proj"
    kernel = params.flatten(model)[f"{path}/base/kernel"]
    delta = dict(lora.adapters(model))[path].delta()
    assert delta.dtype == jnp.float32
    lora.fold(model)
    wanted = (np.asarray(kernel, np.float32) + delta).astype(jnp.bfloat16)
    np.testing.assert_array_equal(params.flatten(model)[f"{path}/kernel"], wanted)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_adapters_are_float32_over_any_base(base_state, dtype):
    model = adapted(base_state, dtype=dtype)
    for name, array in params.flatten(model).items():
        assert array.dtype == (jnp.float32 if "lora_" in name else dtype), name


class TestDropout:
    """One layer whose adapter maps x to the sum of its entries."""

    @pytest.fixture
    def layer(self):
        base = Linear(64, 1, axes=("embed", "mlp"), init=nnx.initializers.zeros, rngs=nnx.Rngs(0))
        config = lora.LoRAConfig(rank=1, alpha=1, dropout=0.25)
        layer = lora.LoRALinear(base, config, rngs=nnx.Rngs(1))
        layer.lora_a.set_value(jnp.ones((64, 1)))
        layer.lora_b.set_value(jnp.ones((1, 1)))
        return layer

    def test_only_in_training(self, layer):
        x = jnp.ones((5, 64))
        np.testing.assert_allclose(layer(x), 64.0)
        layer.train()
        assert np.asarray(layer(x)).std() > 1
        layer.eval()
        np.testing.assert_allclose(layer(x), 64.0)

    def test_is_a_function_of_the_key(self, layer):
        layer.train()
        x = jnp.ones((5, 64))
        first, again = layer(x), layer(x)
        np.testing.assert_array_equal(first, again)
        layer.dropout_key.set_value(jax.random.key(9))
        assert np.abs(layer(x) - first).max() > 0.5

    def test_keeps_the_expectation(self, layer):
        layer.train()
        sums = np.asarray(layer(jnp.ones((4000, 64))))[:, 0]
        # Each entry is 0 or 4/3: variance 1/3, and 64 entries in a sum.
        deviation = (64 / 3) ** 0.5
        assert sums.mean() == pytest.approx(64.0, abs=5 * deviation / 4000**0.5)
        assert sums.std() == pytest.approx(deviation, rel=0.1)
        kept = sums * 0.75
        np.testing.assert_allclose(kept, np.round(kept), atol=1e-3)


def test_a_models_dropout(base_state):
    model = adapted(base_state, dropout=0.5)
    calm = logits(model)
    without = adapted(base_state)
    nnx.update(without, nnx.state(model, nnx.LoRAParam))
    np.testing.assert_array_equal(calm, logits(without))
    model.train()
    graphdef, keys, rest = nnx.split(model, lora.DropoutKey, ...)
    # One key an adapter and layer: no two layers drop the same.
    drawn = lora.set_dropout_keys(keys, jax.random.key(0))
    every = np.concatenate([jax.random.key_data(k).reshape(-1, 2) for k in jax.tree.leaves(drawn)])
    assert len(every) == 2 * (7 + 3) == len(np.unique(every, axis=0))

    @jax.jit
    def run(seed):
        return nnx.merge(graphdef, lora.set_dropout_keys(keys, jax.random.key(seed)), rest)(*INPUTS)

    first, again, other = run(0), run(0), run(1)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01
    assert np.abs(first - calm).max() > 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(rank=0), "lora.rank 0"),
        (dict(alpha=0.0), "lora.alpha 0.0"),
        (dict(alpha=-16.0), "lora.alpha -16.0"),
        (dict(alpha=math.nan), "lora.alpha nan"),
        (dict(alpha=math.inf), "lora.alpha inf"),
        (dict(dropout=1.0), "lora.dropout 1.0"),
        (dict(dropout=-0.1), "lora.dropout -0.1"),
        (dict(dropout=math.nan), "lora.dropout nan"),
        (dict(init="zeros"), "lora.init 'zeros'"),
        (dict(targets=()), "lora.targets and lora.towers must name"),
        (dict(towers=()), "lora.targets and lora.towers must name"),
        (dict(towers=("audio_tower",)), "'audio_tower' is none of language_model, vision_tower"),
    ],
)
def test_bad_configs(options, message):
    with pytest.raises(UserError, match=message):
        lora.LoRAConfig(**{"rank": 2, "alpha": 2} | options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(targets=("q_proj", "q_porj")), "no layer of language_model is called q_porj"),
        (dict(targets=("up_proj",), towers=("vision_tower",)), "vision_tower is called up_proj"),
    ],
)
def test_nothing_is_left_unadapted_in_silence(base_state, options, message):
    model = plain(base_state)
    with pytest.raises(UserError, match=message):
        lora.apply(model, lora.LoRAConfig(rank=2, alpha=2, **options), rngs=nnx.Rngs(0))
    # The model is as it was.
    assert set(params.flatten(model)) == set(params.flatten(plain(base_state)))


def test_a_model_is_adapted_once(base_state):
    with pytest.raises(UserError, match="has adapters already"):
        lora.apply(adapted(base_state), lora.LoRAConfig(rank=2, alpha=2), rngs=nnx.Rngs(0))
