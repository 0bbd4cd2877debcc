"""SigLIP's vision transformer: an image becomes one embedding per patch, without pooling.

Zhai et al., arXiv:2303.15343; as in google-research/big_vision `models/vit.py`.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float
from medjax_kernels import attention

from medjax.models.config import SigLIPConfig
from medjax.models.layers import Dtype, LayerNorm, Linear, scan, stack

_xavier = nnx.initializers.xavier_uniform()


class Attention(nnx.Module):
    """Full multi-head attention with biases."""

    def __init__(self, config: SigLIPConfig, *, rngs: nnx.Rngs, **dtypes):
        self.num_heads = config.num_heads
        width = config.width

        def linear(axes):
            return Linear(width, width, axes=axes, use_bias=True, init=_xavier, rngs=rngs, **dtypes)

        self.q_proj = linear(("embed", "heads"))
        self.k_proj = linear(("embed", "heads"))
        self.v_proj = linear(("embed", "heads"))
        self.out_proj = linear(("heads", "embed"))

    def __call__(self, x: Float[Array, "B P D"]) -> Float[Array, "B P D"]:
        batch, patches, width = x.shape
        heads = (batch, patches, self.num_heads, width // self.num_heads)
        q, k, v = (proj(x).reshape(heads) for proj in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(attention(q, k, v).reshape(x.shape))


class MLP(nnx.Module):
    """Two linear layers around a GELU (tanh approximation)."""

    def __init__(self, config: SigLIPConfig, *, rngs: nnx.Rngs, **dtypes):
        kwargs = dict(use_bias=True, init=_xavier, rngs=rngs, **dtypes)
        self.fc1 = Linear(config.width, config.mlp_dim, axes=("embed", "mlp"), **kwargs)
        self.fc2 = Linear(config.mlp_dim, config.width, axes=("mlp", "embed"), **kwargs)

    def __call__(self, x: Float[Array, "B P D"]) -> Float[Array, "B P D"]:
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=True))


class Block(nnx.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: SigLIPConfig, *, rngs: nnx.Rngs, **dtypes):
        param_dtype = dtypes["param_dtype"]
        self.layer_norm1 = LayerNorm(config.width, param_dtype=param_dtype)
        self.self_attn = Attention(config, rngs=rngs, **dtypes)
        self.layer_norm2 = LayerNorm(config.width, param_dtype=param_dtype)
        self.mlp = MLP(config, rngs=rngs, **dtypes)

    def __call__(self, x: Float[Array, "B P D"]) -> Float[Array, "B P D"]:
        x = x + self.self_attn(self.layer_norm1(x)).astype(x.dtype)
        return x + self.mlp(self.layer_norm2(x)).astype(x.dtype)


class SigLIP(nnx.Module):
    """Patches, learned positions, `depth` blocks, final norm."""

    def __init__(
        self,
        config: SigLIPConfig,
        num_patches: int,
        *,
        remat: str = "none",
        dtype: Dtype = jnp.float32,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        dtypes = dict(dtype=dtype, param_dtype=param_dtype)
        self.patch_size = config.patch_size
        self.remat = remat
        self.patch_embedding = Linear(
            3 * config.patch_size**2, config.width, axes=(None, "embed"), use_bias=True,
            rngs=rngs, **dtypes,
        )  # fmt: skip
        positions = nnx.initializers.normal(config.width**-0.5)
        self.position_embedding = nnx.Param(
            positions(rngs.params(), (num_patches, config.width), param_dtype),
            axes=(None, "embed"),
        )
        self.layers = stack(config.depth, lambda r: Block(config, rngs=r, **dtypes), rngs)
        self.post_layernorm = LayerNorm(config.width, param_dtype=param_dtype)

    def __call__(self, image: Float[Array, "B Y X 3"]) -> Float[Array, "B P D"]:
        """Embeds images in [-1, 1]; the result is float32."""
        x = self.patch_embedding(patchify(image, self.patch_size)).astype(jnp.float32)
        x = x + self.position_embedding.get_value().astype(x.dtype)
        x, _ = scan(self.layers, lambda layer, x: (layer(x), None), x, remat=self.remat)
        return self.post_layernorm(x)


def patchify(image: Float[Array, "B Y X 3"], size: int) -> Float[Array, "B P I"]:
    """Cuts images into patches, row by row; a patch is flattened as (y, x, channel)."""
    batch, height, width, channels = image.shape
    x = image.reshape(batch, height // size, size, width // size, size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, size * size * channels)
