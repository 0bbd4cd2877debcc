"""Upsampling is the transpose of a convolution, and padding is as it is said."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from medjax.models.convolutions import Upsampling


def test_upsampling_is_the_transpose_of_a_convolution():
    layer = Upsampling(3, 5, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    layer.bias.set_value(jnp.asarray(rng.standard_normal(5), jnp.float32))
    x = rng.standard_normal((2, 4, 6, 3)).astype(np.float32)

    def convolution(y):  # from the result's size back to the input's
        kernel = layer.kernel.get_value()  # [y, x, out, in], as of this one
        return jax.lax.conv_general_dilated(
            y, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    _, transpose = jax.vjp(convolution, jnp.zeros((2, 8, 12, 5)))
    (wanted,) = transpose(jnp.asarray(x))
    wanted += layer.bias.get_value()
    np.testing.assert_allclose(layer(x), wanted, rtol=1e-5, atol=1e-5)
