"""Schedules by hand, which parameters decay, and what may be named."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from medjax import config as config_lib
from medjax.errors import UserError
from medjax.training import optimizers


def config(**changes) -> ConfigDict:
    result = config_lib.defaults().optimizer
    with result.ignore_type():
        result.update(changes)
    return result


def rates(steps: int, **changes) -> list[float]:
    schedule = optimizers.schedule(config(**changes), steps)
    return [float(schedule(i)) for i in range(steps)]


def test_warm_up_rises_from_the_first_step():
    found = rates(8, schedule="constant", learning_rate=4.0, warmup_steps=4)
    np.testing.assert_allclose(found, [1, 2, 3, 4, 4, 4, 4, 4], rtol=1e-6)


def test_a_warm_up_of_one_step_is_none():
    assert rates(4, schedule="constant", learning_rate=4.0, warmup_steps=1) == [4.0] * 4


def test_cosine_falls_to_zero():
    found = rates(10, schedule="cosine", learning_rate=2.0, warmup_steps=2)
    wanted = [1, 2, *(1 + np.cos(np.pi * np.arange(8) / 8))]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


def test_linear_falls_to_zero():
    found = rates(6, schedule="linear", learning_rate=1.0, warmup_steps=2)
    np.testing.assert_allclose(found, [0.5, 1, 1, 0.75, 0.5, 0.25], rtol=1e-6)


@pytest.mark.parametrize("warmup", [10, 11])
def test_warm_up_longer_than_training(warmup):
    with pytest.raises(UserError, match=f"warmup_steps {warmup}"):
        rates(10, warmup_steps=warmup)


PARAMS = {
    "language_model/layers/mlp/up_proj/kernel": jnp.full((2, 2), 2.0),
    "language_model/layers/mlp/up_proj/lora_a": jnp.full((2, 2), 2.0),
    "language_model/final_norm/scale": jnp.full(2, 2.0),
    "multi_modal_projector/bias": jnp.full(2, 2.0),
}


def updated(steps: int = 1, gradient: float = 1.0, **changes):
    """Parameters after steps with constant gradients."""
    optimizer = optimizers.create(config(schedule="constant", **changes), 100)
    params, state = PARAMS, optimizer.init(PARAMS)
    for _ in range(steps):
        grads = jax.tree.map(lambda p: jnp.full_like(p, gradient), params)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_weight_decay_spares_norms_and_biases():
    # Without gradients AdamW does nothing but decay: p - rate * decay * p.
    found = updated(gradient=0.0, learning_rate=0.1, weight_decay=0.5)
    decayed = {name for name, value in found.items() if float(value.max()) != 2.0}
    assert decayed == {name for name in PARAMS if name.endswith(("kernel", "lora_a"))}
    for name in decayed:
        np.testing.assert_allclose(found[name], 2.0 - 0.1 * 0.5 * 2.0, rtol=1e-6)


def test_adamw_without_decay_by_default():
    # optax' own default would be 1e-4.
    found = updated(gradient=0.0, learning_rate=0.1)
    np.testing.assert_array_equal(found["multi_modal_projector/bias"], 2.0)
    np.testing.assert_array_equal(found["language_model/layers/mlp/up_proj/kernel"], 2.0)


def test_any_optimizer_of_optax():
    found = updated(steps=2, optax_name="sgd", learning_rate=0.25, options={"momentum": 0.5})
    # Momentum: 1, then 1.5.
    for value in found.values():
        np.testing.assert_allclose(value, 2.0 - 0.25 * (1 + 1.5), rtol=1e-6)


def test_clipping_is_off_by_default():
    found = updated(optax_name="sgd", gradient=100.0, learning_rate=1.0)
    for value in found.values():
        np.testing.assert_array_equal(value, -98.0)


def test_clipping_by_the_norm_of_all_gradients():
    found = updated(optax_name="sgd", gradient=100.0, learning_rate=1.0, clip_norm=3.0)
    elements = sum(p.size for p in PARAMS.values())
    for value in found.values():
        np.testing.assert_allclose(value, 2.0 - 3.0 / elements**0.5, rtol=1e-6)


def test_multipliers_scale_the_rate_of_the_first_pattern_that_fits():
    multipliers = ((r"lora_a$", 0.5), (r"up_proj", 3.0), ("scale", 0.0))
    found = updated(optax_name="sgd", learning_rate=1.0, lr_multipliers=multipliers)
    wanted = dict(zip(PARAMS, (2.0 - 3.0, 2.0 - 0.5, 2.0, 2.0 - 1.0), strict=True))
    for name, value in found.items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optax_name": "adamm"}, "optax has no 'adamm'"),
        ({"optax_name": "_src"}, "optax has no '_src'"),
        ({"optax_name": "global_norm"}, "no optimizer"),
        ({"options": {"beta2": 0.9}}, "has no beta2; it has .*b2"),
        ({"optax_name": "sgd", "weight_decay": 0.1}, "optax.sgd has none"),
        ({"optax_name": "novograd", "weight_decay": 0.1}, "cannot spare norms"),
    ],
)
def test_what_optax_does_not_know(changes, message):
    with pytest.raises(UserError, match=message):
        optimizers.create(config(**changes), 10)


SHAPES = {name: value.shape for name, value in PARAMS.items()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optax_name": "lbfgs"}, "optax.lbfgs with options {} fails"),
        ({"optax_name": "rprop"}, "optax.rprop with options {} fails"),
        ({"optax_name": "sm3"}, "optax.sm3 with options {} fails"),
        ({"optax_name": "optimistic_adam"}, "optax.optimistic_adam with options {} fails"),
        ({"options": {"b1": "much"}}, "optax.adamw with options {'b1': 'much'} fails"),
        ({"options": {"mu_dtype": "flaot"}}, "optax.adamw with options {'mu_dtype': 'flaot'}"),
        ({"options": {"beta2": 0.9}}, "has no beta2"),
    ],
)
def test_what_optax_cannot_do(changes, message):
    with pytest.raises(UserError, match=message) as error:
        optimizers.check(config(**changes), 10, SHAPES)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["adamw", "sgd", "adafactor", "lion", "novograd"])
def test_what_optax_can(name):
    optimizers.check(config(optax_name=name, options={}, clip_norm=1.0), 10, SHAPES)


@pytest.mark.parametrize(
    "pair", [("q_prj", 1.0), ("scale", -1.0), ("scale", "much"), ("(", 1.0), ("scale",), "scale"]
)
def test_wrong_multipliers(pair):
    with pytest.raises(UserError, match="lr_multipliers"):
        optimizers.check_multipliers(PARAMS, (("kernel", 1.0), pair))
