"""Convolutional networks between images and tokens: residual blocks, halving and doubling.

In the manner of VQGAN's (arXiv:2012.09841), smaller: no attention, and each pixel's channels are
normalised alone, so that what a token says depends on the pixels around it and on no others.
"""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from medjax.models.convolutions import Conv, Upsampling
from medjax.models.layers import LayerNorm
from medjax.models.tokenizers.config import ConvConfig


class ResBlock(nnx.Module):
    """x plus two convolutions of it; the residual stream is float32."""

    def __init__(self, width: int, *, rngs: nnx.Rngs, **dtypes):
        self.norm1 = LayerNorm(width, param_dtype=dtypes["param_dtype"])
        self.conv1 = Conv(width, width, 3, rngs=rngs, **dtypes)
        self.norm2 = LayerNorm(width, param_dtype=dtypes["param_dtype"])
        self.conv2 = Conv(width, width, 3, rngs=rngs, **dtypes)

    def __call__(self, x: Float[Array, "B Y X C"]) -> Float[Array, "B Y X C"]:
        y = self.conv1(jax.nn.silu(self.norm1(x)))
        return x + self.conv2(jax.nn.silu(self.norm2(y))).astype(x.dtype)


class _Stage(nnx.Module):
    """Residual blocks, before which the size is doubled or after which it is halved."""

    def __init__(self, width: int, blocks: int, *, rngs: nnx.Rngs, **dtypes):
        self.blocks = nnx.List([ResBlock(width, rngs=rngs, **dtypes) for _ in range(blocks)])

    def __call__(self, x: Float[Array, "B Y X C"]) -> Float[Array, "B Y X C"]:
        x = x.astype(jnp.float32)
        for block in self.blocks:
            x = block(x)
        return x


class ConvEncoder(nnx.Module):
    """Pixels; for each stage its blocks and a halving; projection."""

    def __init__(
        self, config: ConvConfig, channels: int, code_width: int, *, rngs: nnx.Rngs, **dtypes
    ):
        widths = config.widths
        kwargs = dict(rngs=rngs, **dtypes)
        self.from_pixels = Conv(channels, widths[0], 3, **kwargs)
        self.stages = nnx.List([_Stage(width, config.blocks, **kwargs) for width in widths])
        self.down = nnx.List(
            [Conv(a, b, 4, stride=2, **kwargs) for a, b in itertools.pairwise(_ends(widths))]
        )
        self.norm = LayerNorm(widths[-1], param_dtype=dtypes["param_dtype"])
        self.to_code = Conv(widths[-1], code_width, 1, **kwargs)

    def __call__(self, pixels: Float[Array, "B Y X C"]) -> Float[Array, "B h w I"]:
        x = self.from_pixels(pixels)
        for stage, down in zip(self.stages, self.down, strict=True):
            x = down(stage(x))
        return self.to_code(self.norm(x))


class ConvDecoder(nnx.Module):
    """Projection; for each stage a doubling and its blocks; pixels."""

    def __init__(
        self, config: ConvConfig, channels: int, code_width: int, *, rngs: nnx.Rngs, **dtypes
    ):
        widths = config.widths
        kwargs = dict(rngs=rngs, **dtypes)
        self.from_code = Conv(code_width, widths[-1], 3, **kwargs)
        self.up = nnx.List(
            [Upsampling(b, a, **kwargs) for a, b in reversed([*itertools.pairwise(_ends(widths))])]
        )
        self.stages = nnx.List(
            [_Stage(width, config.blocks, **kwargs) for width in reversed(widths)]
        )
        self.norm = LayerNorm(widths[0], param_dtype=dtypes["param_dtype"])
        self.to_pixels = Conv(widths[0], channels, 3, **kwargs)

    def __call__(self, codes: Float[Array, "B h w I"]) -> Float[Array, "B Y X C"]:
        x = self.from_code(codes)
        for up, stage in zip(self.up, self.stages, strict=True):
            x = stage(up(x))
        return self.to_pixels(self.norm(x))


def _ends(widths: tuple[int, ...]) -> tuple[int, ...]:
    """The widths between which the size changes: the last stage's stays."""
    return (*widths, widths[-1])
