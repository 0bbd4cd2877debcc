"""Parameters by name: between models and checkpoints, and counted."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from medjax.errors import UserError
from medjax.models import lora, params
from medjax.models.layers import Linear


class Pair(nnx.Module):
    """Two linear layers under a name that LoRA knows as a tower."""

    def __init__(self, rngs, dtype=jnp.float32):
        kwargs = dict(axes=("embed", "mlp"), rngs=rngs, param_dtype=dtype)
        self.language_model = nnx.Module()
        self.language_model.up_proj = Linear(3, 4, use_bias=True, **kwargs)
        self.language_model.down_proj = Linear(4, 3, **kwargs)


SHAPES = {
    "language_model/down_proj/kernel": (4, 3),
    "language_model/up_proj/bias": (4,),
    "language_model/up_proj/kernel": (3, 4),
}


def arrays(**changes) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    named = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    return named | changes


def abstract(dtype=jnp.float32):
    return nnx.split(nnx.eval_shape(lambda: Pair(nnx.Rngs(0), dtype)))


def test_names_and_shapes():
    found = {name: array.shape for name, array in params.flatten(Pair(nnx.Rngs(0))).items()}
    assert found == SHAPES


@pytest.mark.parametrize("as_pairs", [False, True], ids=["mapping", "one at a time"])
def test_assign_fills_an_abstract_model(as_pairs):
    graphdef, state = abstract()
    wanted = arrays()
    params.assign(state, iter(wanted.items()) if as_pairs else wanted, "weights")
    found = params.flatten(nnx.merge(graphdef, state))
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)


def test_assign_casts_to_the_models_dtype():
    _, state = abstract(jnp.bfloat16)
    params.assign(state, arrays(), "weights")
    for name, array in params.flatten(state).items():
        assert array.dtype == jnp.bfloat16
        np.testing.assert_array_equal(array, jnp.asarray(arrays()[name], jnp.bfloat16))


def test_assign_reaches_wrapped_layers_by_their_plain_names():
    model = Pair(nnx.Rngs(0))
    config = lora.LoRAConfig(rank=2, alpha=4, targets=("up_proj",))
    lora.apply(model, config, rngs=nnx.Rngs(1))
    state = nnx.state(model, nnx.All(nnx.Param, nnx.Not(nnx.LoRAParam)))
    params.assign(state, arrays(), "weights")
    nnx.update(model, state)
    kernel = model.language_model.up_proj.base.kernel.get_value()
    np.testing.assert_array_equal(kernel, arrays()["language_model/up_proj/kernel"])


BAD = {
    "unexpected": (list(arrays(extra=np.zeros(1)).items()), "w.npz: parameter extra comes unexp"),
    "twice": (2 * list(arrays().items())[:1], "w.npz: parameter .*kernel comes twice"),
    "missing": (list(arrays().items())[:1], "w.npz: 2 parameters are missing, among them .*bias"),
    "shape": (
        [("language_model/up_proj/bias", np.zeros(5))],
        r"w.npz: language_model/up_proj/bias has shape \(5,\), the model has \(4,\)",
    ),
}


@pytest.mark.parametrize(("pairs", "message"), BAD.values(), ids=BAD.keys())
def test_assign_is_strict(pairs, message):
    with pytest.raises(UserError, match=message):
        params.assign(abstract()[1], pairs, "w.npz")


def test_base_name():
    assert params.base_name("a/q_proj/base/kernel") == "a/q_proj/kernel"
    assert params.base_name("a/q_proj/kernel") == "a/q_proj/kernel"
    assert params.base_name("base_model/kernel") == "base_model/kernel"


def test_counts_and_the_share_that_trains():
    model = Pair(nnx.Rngs(0))
    assert params.count(model) == 12 + 4 + 12
    assert params.trainable_names(model) == list(SHAPES)
    assert params.trainable_share(model) == "28 trainable of 28 parameters (100.000 %)"
    config = lora.LoRAConfig(rank=2, alpha=4, targets=("up_proj",))
    lora.apply(model, config, rngs=nnx.Rngs(1))
    assert params.count(model) == 28 + 2 * (3 + 4)
    names = ["language_model/up_proj/lora_a", "language_model/up_proj/lora_b"]
    assert params.trainable_names(model) == names
    assert params.trainable_share(model) == "14 trainable of 42 parameters (33.333 %)"
    assert params.count(model, nnx.LoRAParam) == 14
