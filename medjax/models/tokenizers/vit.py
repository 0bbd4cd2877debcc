"""Transformers between images and tokens (ViT-VQGAN, arXiv:2110.04627).

Positions are fixed sines and cosines, so that the same parameters serve every size of image.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from medjax.models.config import SigLIPConfig
from medjax.models.fourm.positions import sincos
from medjax.models.layers import LayerNorm, Linear, scan, stack
from medjax.models.siglip import Block, patchify
from medjax.models.tokenizers.config import ViTConfig


class _Transformer(nnx.Module):
    """Positions, `depth` blocks, final norm; the residual stream is float32."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs, **dtypes):
        sizes = SigLIPConfig(config.width, config.depth, config.mlp_dim, config.num_heads)
        self.layers = stack(config.depth, lambda r: Block(sizes, rngs=r, **dtypes), rngs)
        self.norm = LayerNorm(config.width, param_dtype=dtypes["param_dtype"])

    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h w D"]:
        batch, height, width, channels = x.shape
        rows = x.reshape(batch, height * width, channels).astype(jnp.float32)
        rows = rows + _positions(height, width, channels)
        rows, _ = scan(self.layers, lambda layer, x: (layer(x), None), rows)
        return self.norm(rows).reshape(x.shape)


def _positions(height: int, width: int, channels: int) -> np.ndarray:
    """Of a grid's places, row by row; half from the row and half from the column."""
    row, column = np.divmod(np.arange(height * width), width)
    return np.concatenate([sincos(row, channels // 2), sincos(column, channels // 2)], axis=1)


class ViTEncoder(nnx.Module):
    """Patches, transformer, projection."""

    def __init__(
        self,
        config: ViTConfig,
        patch_size: int,
        channels: int,
        code_width: int,
        *,
        rngs: nnx.Rngs,
        **dtypes,
    ):
        kwargs = dict(use_bias=True, rngs=rngs, **dtypes)
        self.patch_size = patch_size
        self.patch_embedding = Linear(
            channels * patch_size**2, config.width, axes=(None, "embed"), **kwargs
        )
        self.transformer = _Transformer(config, rngs=rngs, **dtypes)
        self.to_code = Linear(config.width, code_width, axes=("embed", None), **kwargs)

    def __call__(self, pixels: Float[Array, "B Y X C"]) -> Float[Array, "B h w I"]:
        batch, height, width, _ = pixels.shape
        size = self.patch_size
        x = self.patch_embedding(patchify(pixels, size))
        x = x.reshape(batch, height // size, width // size, -1)
        return self.to_code(self.transformer(x))


class ViTDecoder(nnx.Module):
    """Projection, transformer, patches."""

    def __init__(
        self,
        config: ViTConfig,
        patch_size: int,
        channels: int,
        code_width: int,
        *,
        rngs: nnx.Rngs,
        **dtypes,
    ):
        kwargs = dict(use_bias=True, rngs=rngs, **dtypes)
        self.patch_size = patch_size
        self.from_code = Linear(code_width, config.width, axes=(None, "embed"), **kwargs)
        self.transformer = _Transformer(config, rngs=rngs, **dtypes)
        self.to_pixels = Linear(
            config.width, channels * patch_size**2, axes=("embed", None), **kwargs
        )

    def __call__(self, codes: Float[Array, "B h w I"]) -> Float[Array, "B Y X C"]:
        x = self.to_pixels(self.transformer(self.from_code(codes)))
        batch, height, width, _ = x.shape
        size = self.patch_size
        x = x.reshape(batch, height, width, size, size, -1).transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(batch, height * size, width * size, -1)
