"""Layers against their formulas in NumPy, and scanned layers against a Python loop."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from medjax.errors import UserError
from medjax.models.layers import (
    REMAT_POLICIES,
    LayerNorm,
    Linear,
    RMSNorm,
    check_remat,
    gelu,
    scan,
    stack,
)
from medjax.models.params import flatten


def numbers(shape, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_linear():
    layer = Linear(4, 3, axes=("embed", "mlp"), use_bias=True, rngs=nnx.Rngs(0))
    layer.bias.set_value(jnp.asarray(numbers(3)))
    x = numbers((2, 5, 4))
    wanted = x @ np.asarray(layer.kernel.get_value()) + numbers(3)
    np.testing.assert_allclose(layer(x), wanted, rtol=1e-5, atol=1e-6)
    assert layer.kernel.axes == ("embed", "mlp")
    assert layer.bias.axes == ("mlp",)


def test_linear_computes_in_its_dtype():
    layer = Linear(4, 3, axes=(None, None), dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    assert layer.kernel.get_value().dtype == jnp.float32
    x = numbers((5, 4))
    y = layer(x)
    assert y.dtype == jnp.bfloat16
    rounded = (np.asarray(jnp.asarray(a, jnp.bfloat16), np.float32)
               for a in (x, layer.kernel.get_value()))  # fmt: skip
    np.testing.assert_allclose(np.asarray(y, np.float32), np.matmul(*rounded), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_rms_norm(dtype):
    layer = RMSNorm(6, param_dtype=dtype)
    layer.scale.set_value(jnp.asarray(numbers(6), dtype))
    x = numbers((3, 6), seed=1)
    scale = np.asarray(layer.scale.get_value(), np.float64)
    wanted = x / np.sqrt((x.astype(np.float64) ** 2).mean(axis=1, keepdims=True) + 1e-6)
    y = layer(x)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, wanted * (1 + scale), rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16])
def test_layer_norm(dtype):
    layer = LayerNorm(6, param_dtype=dtype)
    layer.scale.set_value(jnp.asarray(numbers(6), dtype))
    layer.bias.set_value(jnp.asarray(numbers(6, seed=2), dtype))
    x = 1.0 + numbers((3, 6), seed=1)
    scale, bias = (np.asarray(p.get_value(), np.float64) for p in (layer.scale, layer.bias))
    wanted = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-6)
    y = layer(x)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, wanted * scale + bias, rtol=1e-4, atol=1e-5)


def test_norms_of_large_half_precision_numbers_do_not_overflow():
    x = jnp.full((1, 6), 60_000.0, jnp.float16)
    np.testing.assert_allclose(RMSNorm(6)(x), 1.0, rtol=1e-5)
    np.testing.assert_allclose(LayerNorm(6)(x), 0.0, atol=1e-5)


class Layer(nnx.Module):
    def __init__(self, rngs):
        self.linear = Linear(4, 4, axes=(None, None), rngs=rngs)

    def __call__(self, x):
        return x + jnp.tanh(self.linear(x))


def body(layer, x, factor):
    return layer(x) * factor, x.sum()


def loop(layers, x, factors):
    """What `scan` must compute, one layer after another."""
    graphdef, state = nnx.split(layers)
    sums = []
    for index in range(len(factors)):
        layer = nnx.merge(graphdef, jax.tree.map(lambda a, index=index: a[index], state))
        x, total = body(layer, x, factors[index])
        sums.append(total)
    return x, jnp.stack(sums)


def test_stacked_layers_are_different_layers():
    layers = stack(3, Layer, nnx.Rngs(0))
    (name, kernel), *others = flatten(layers).items()
    assert (name, kernel.shape, others) == ("linear/kernel", (3, 4, 4), [])
    assert np.abs(kernel[0] - kernel[1]).max() > 0.1
    assert np.abs(kernel[1] - kernel[2]).max() > 0.1


@pytest.mark.parametrize("remat", ["none", *REMAT_POLICIES])
def test_scan_is_a_loop_whatever_is_recomputed(remat):
    layers = stack(3, Layer, nnx.Rngs(0))
    graphdef, state = nnx.split(layers)
    x, factors = jnp.asarray(numbers((2, 4))), jnp.array([1.0, 0.5, 2.0])

    def loss(run):
        def total(state, x):
            out, sums = run(nnx.merge(graphdef, state), x)
            return jnp.sum(out**2) + jnp.sum(sums**3), (out, sums)

        return jax.grad(total, argnums=(0, 1), has_aux=True)(state, x)

    found = loss(lambda layers, x: scan(layers, body, x, factors, remat=remat))
    wanted = loss(lambda layers, x: loop(layers, x, factors))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, wanted)


def saved(remat) -> int:
    """How many numbers of a scanned forward pass are kept for the backward pass."""
    graphdef, state = nnx.split(stack(8, Layer, nnx.Rngs(0)))

    def run(state, x):
        return scan(nnx.merge(graphdef, state), lambda layer, x: (layer(x), None), x, remat=remat)

    _, pull = jax.vjp(lambda state, x: run(state, x)[0], state, jnp.zeros((16, 4)))
    return sum(leaf.size for leaf in jax.tree.leaves(pull))


def test_recomputing_keeps_less():
    assert saved("full") < saved("dots") < saved("none")


def test_check_remat():
    for name in ("none", *REMAT_POLICIES):
        check_remat(name)
    with pytest.raises(UserError, match="remat 'some' is none of none, full, dots"):
        check_remat("some")


def test_gelu_and_its_derivative():
    x = np.linspace(-6, 6, 101, dtype=np.float32)
    cdf = np.array([0.5 * math.erfc(-float(v) / math.sqrt(2)) for v in x])
    density = np.exp(-0.5 * x.astype(np.float64) ** 2) / math.sqrt(2 * math.pi)
    np.testing.assert_allclose(gelu(x), x * cdf, rtol=1e-5, atol=1e-7)
    slopes = jax.vmap(jax.grad(gelu))(x)
    np.testing.assert_allclose(slopes, cdf + x * density, rtol=1e-5, atol=1e-6)
    half = gelu(jnp.asarray(x, jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), x * cdf, rtol=0.02, atol=0.02)


def test_gelu_keeps_one_array_for_its_gradient():
    _, pull = jax.vjp(gelu, jnp.asarray(numbers((7, 5))))
    assert [x.shape for x in jax.tree.leaves(pull)] == [(7, 5)]
