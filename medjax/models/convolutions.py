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
        # One pixel becomes 2 x 2, and each of these is made with 2 x 2 of the taps from pixels that
        # lie within 3 x 3: one plain convolution gives all four. XLA's CPU backend takes the
        # transposed one by a loop that is more than ten times slower.
        taps = jnp.pad(self.kernel.get_value(), ((1, 1), (1, 1), (0, 0), (0, 0)))
        outputs, inputs = taps.shape[2:]
        taps = taps.reshape(3, 2, 3, 2, outputs, inputs)[::-1, :, ::-1]
        taps = taps.transpose(0, 2, 5, 1, 3, 4).reshape(3, 3, inputs, 4 * outputs)
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype), taps.astype(self.dtype), (1, 1), "SAME", dimension_numbers=_LAYOUT
        )
        batch, height, width, _ = x.shape
        y = y.reshape(batch, height, width, 2, 2, outputs).transpose(0, 1, 3, 2, 4, 5)
        y = y.reshape(batch, 2 * height, 2 * width, outputs)
        return y + self.bias.get_value().astype(self.dtype)
