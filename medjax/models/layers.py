"""The few layers that all models are made of, and scanning over stacked ones."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from medjax.errors import UserError

Dtype = Any
_fan_in = nnx.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


class Linear(nnx.Module):
    """y = x @ kernel + bias, computed in `dtype`, with named axes for sharding.

    kernel: [in, out] in the parameters' dtype (stacked layers: [L, in, out]); bias: [out].
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        axes: tuple[str | None, str | None],
        use_bias: bool = False,
        dtype: Dtype = jnp.float32,
        param_dtype: Dtype = jnp.float32,
        init: Callable = _fan_in,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(
            init(rngs.params(), (in_features, out_features), param_dtype), axes=axes
        )
        self.bias = (
            nnx.Param(jnp.zeros(out_features, param_dtype), axes=axes[1:]) if use_bias else None
        )
        self.dtype = dtype

    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        # As one matrix: on a CPU, XLA sums the kernel's gradient over two axes 2.6 times slower.
        rows = x.reshape(-1, x.shape[-1]).astype(self.dtype)
        y = rows @ self.kernel.get_value().astype(self.dtype)
        y = y if self.bias is None else y + self.bias.get_value().astype(self.dtype)
        return y.reshape(*x.shape[:-1], y.shape[-1])


class RMSNorm(nnx.Module):
    """Gemma's RMSNorm: x / rms(x) * (1 + scale), in float32 (arXiv:1910.07467)."""

    def __init__(self, width: int, *, param_dtype: Dtype = jnp.float32):
        self.scale = nnx.Param(jnp.zeros(width, param_dtype), axes=("norm",))

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)
        return x * (1.0 + self.scale.get_value().astype(jnp.float32))


class LayerNorm(nnx.Module):
    """LayerNorm with scale and, if wanted, bias, in float32."""

    def __init__(self, width: int, *, use_bias: bool = True, param_dtype: Dtype = jnp.float32):
        self.scale = nnx.Param(jnp.ones(width, param_dtype), axes=("norm",))
        self.bias = nnx.Param(jnp.zeros(width, param_dtype), axes=("norm",)) if use_bias else None

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        x = x.astype(jnp.float32)
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)
        x = x * self.scale.get_value().astype(jnp.float32)
        return x if self.bias is None else x + self.bias.get_value().astype(jnp.float32)


@jax.custom_jvp
def gelu(x: Float[Array, "*B F"]) -> Float[Array, "*B F"]:
    """x times the normal distribution function (arXiv:1606.08415), not its tanh approximation.

    For the backward pass it keeps one array, its derivative; jax.nn's keeps four.
    """
    return x * _normal_cdf(x)


def _normal_cdf(x):
    return 0.5 * jax.lax.erfc(-x * np.sqrt(0.5).astype(x.dtype))


@gelu.defjvp
def _gelu_jvp(primals, tangents):
    (x,), (d_x,) = primals, tangents
    cdf = _normal_cdf(x)
    density = jnp.exp(-0.5 * jnp.square(x)) * np.sqrt(0.5 / np.pi).astype(x.dtype)
    return x * cdf, (cdf + x * density) * d_x


REMAT_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def check_remat(remat: str) -> None:
    """Raises UserError if `remat` is not "none" or a key of REMAT_POLICIES."""
    if remat != "none" and remat not in REMAT_POLICIES:
        raise UserError(f"remat {remat!r} is none of none, {', '.join(REMAT_POLICIES)}")


def stack(depth: int, create: Callable[[nnx.Rngs], nnx.Module], rngs: nnx.Rngs) -> Any:
    """`depth` modules as one: every parameter gets a leading axis of that length."""
    return nnx.split_rngs(splits=depth)(nnx.vmap(create))(rngs)


def scan(layers: nnx.Module, body: Callable, carry, *inputs, remat: str = "none"):
    """Runs stacked layers one after another, as one compiled loop.

    Args:
      layers: what `stack` returned.
      body: (layer, carry, *inputs of the layer) -> (carry, output of the layer).
      carry: what goes from layer to layer.
      *inputs: pytrees with a leading axis of the layers.
      remat: what the backward pass recomputes: "none", "full" (everything within a layer), or
        "dots" (all but matmuls with weights).

    Returns:
      (carry, outputs stacked over layers).
    """
    graphdef, state = nnx.split(layers)

    def step(carry, inputs):
        state, *rest = inputs
        return body(nnx.merge(graphdef, state), carry, *rest)

    if remat != "none":
        step = jax.checkpoint(step, policy=REMAT_POLICIES[remat], prevent_cse=False)
    return jax.lax.scan(step, carry, (state, *inputs))
