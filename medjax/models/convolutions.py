"""Convolutions on images [B, Y, X, C] and their transposes."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from medjax.models.layers import Dtype

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_init = nnx.initializers.he_normal()


class Conv(nnx.Module):
    """A convolution that pads so as to keep the size, or to divide it by `stride`.

    kernel: [y, x, in, out].
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        *,
        stride: int = 1,
        dtype: Dtype = jnp.float32,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.stride = stride
        self.dtype = dtype
        shape = (size, size, inputs, outputs)
        self.kernel = nnx.Param(_init(rngs.params(), shape, param_dtype), axes=(None,) * 4)
        self.bias = nnx.Param(jnp.zeros(outputs, param_dtype), axes=(None,))

    def __call__(self, x: Float[Array, "B Y X I"]) -> Float[Array, "B Y X O"]:
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype), self.kernel.get_value().astype(self.dtype),
            (self.stride, self.stride), "SAME", dimension_numbers=_LAYOUT,
        )  # fmt: skip
        return y + self.bias.get_value().astype(self.dtype)


class Upsampling(nnx.Module):
    """The transpose of a convolution of 4 x 4 with stride 2: doubles the size.

    kernel: [y, x, out, in], as of the convolution that it transposes.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        dtype: Dtype = jnp.float32,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.dtype = dtype
        shape = (4, 4, outputs, inputs)
        self.kernel = nnx.Param(_init(rngs.params(), shape, param_dtype), axes=(None,) * 4)
        self.bias = nnx.Param(jnp.zeros(outputs, param_dtype), axes=(None,))

    def __call__(self, x: Float[Array, "B Y X I"]) -> Float[Array, "B 2*Y 2*X O"]:
        y = jax.lax.conv_transpose(
            x.astype(self.dtype), self.kernel.get_value().astype(self.dtype), (2, 2),
            ((2, 2), (2, 2)), dimension_numbers=_LAYOUT, transpose_kernel=True,
        )  # fmt: skip
        return y + self.bias.get_value().astype(self.dtype)
