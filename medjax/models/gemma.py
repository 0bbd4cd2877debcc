"""Gemma 1 and 2 decoders, for training and, with a key/value cache, for decoding.

Gemma: arXiv:2403.08295; Gemma 2: arXiv:2408.00118; as in google-research/big_vision
`models/ppp/gemma.py`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int
from medjax_kernels import Tokens, attention

from medjax.models.config import GemmaConfig
from medjax.models.layers import Dtype, Linear, RMSNorm, scan, stack


class Cache(NamedTuple):
    """Keys and values of the tokens seen so far, for all layers.

    Attributes:
      k, v: [L, B, S, K, H]; slots that hold nothing yet are masked by the caller's `Tokens`.
    """

    k: Float[Array, "L B S K H"]
    v: Float[Array, "L B S K H"]


def empty_cache(config: GemmaConfig, batch: int, slots: int, dtype: Dtype) -> Cache:
    """A cache with room for `slots` tokens per row."""
    shape = (config.depth, batch, slots, config.num_kv_heads, config.head_dim)
    return Cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


def rope(x: Float[Array, "B T N H"], positions: Int[Array, "B T"]) -> Float[Array, "B T N H"]:
    """Rotary positions (arXiv:2104.09864): halves are paired, wavelengths 1 to 10,000; float32."""
    half = x.shape[-1] // 2
    timescale = 10_000.0 ** (jnp.arange(half, dtype=jnp.float32) / half)
    radians = positions[..., None, None].astype(jnp.float32) / timescale
    sin, cos = jnp.sin(radians), jnp.cos(radians)
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


class Attention(nnx.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: GemmaConfig, *, rngs: nnx.Rngs, **dtypes):
        self.config = config
        queries = config.num_heads * config.head_dim
        keys = config.num_kv_heads * config.head_dim
        width, kwargs = config.width, dict(rngs=rngs, **dtypes)
        self.q_proj = Linear(width, queries, axes=("embed", "heads"), **kwargs)
        self.k_proj = Linear(width, keys, axes=("embed", "kv_heads"), **kwargs)
        self.v_proj = Linear(width, keys, axes=("embed", "kv_heads"), **kwargs)
        self.o_proj = Linear(queries, width, axes=("heads", "embed"), **kwargs)

    def __call__(self, x, positions, queries: Tokens, keys: Tokens, cache: Cache | None, slot):
        """Returns [B, T, D] and the cache of this layer (no leading L) with T slots written."""
        config, (batch, length) = self.config, x.shape[:2]
        q = self.q_proj(x).reshape(batch, length, config.num_heads, config.head_dim)
        k = self.k_proj(x).reshape(batch, length, config.num_kv_heads, config.head_dim)
        v = self.v_proj(x).reshape(k.shape)
        q, k = rope(q, positions), rope(k, positions)
        if cache is not None:
            cache = Cache(_write(cache.k, k, slot), _write(cache.v, v, slot))
            k, v = cache.k.astype(q.dtype), cache.v.astype(q.dtype)
        out = attention(
            q, k, v,
            queries=queries,
            keys=keys,
            scale=config.query_scale,
            soft_cap=config.attn_logits_softcap,
        )  # fmt: skip
        return self.o_proj(out.reshape(batch, length, -1)), cache


def _write(cache: Float[Array, "B S K H"], new: Float[Array, "B T K H"], slot):
    return jax.lax.dynamic_update_slice_in_dim(cache, new.astype(cache.dtype), slot, axis=1)


class MLP(nnx.Module):
    """GeGLU (arXiv:2002.05202), tanh approximation."""

    def __init__(self, config: GemmaConfig, *, rngs: nnx.Rngs, **dtypes):
        kwargs = dict(rngs=rngs, **dtypes)
        self.gate_proj = Linear(config.width, config.mlp_dim, axes=("embed", "mlp"), **kwargs)
        self.up_proj = Linear(config.width, config.mlp_dim, axes=("embed", "mlp"), **kwargs)
        self.down_proj = Linear(config.mlp_dim, config.width, axes=("mlp", "embed"), **kwargs)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        gate = jax.nn.gelu(self.gate_proj(x), approximate=True)
        return self.down_proj(gate * self.up_proj(x))


class Block(nnx.Module):
    """Pre-norm block; Gemma 2 norms what it adds, too. The residual stream is float32."""

    def __init__(self, config: GemmaConfig, *, rngs: nnx.Rngs, **dtypes):
        def norm():
            return RMSNorm(config.width, param_dtype=dtypes["param_dtype"])

        self.pre_attention_norm = norm()
        self.self_attn = Attention(config, rngs=rngs, **dtypes)
        self.pre_ffw_norm = norm()
        self.mlp = MLP(config, rngs=rngs, **dtypes)
        self.post_attention_norm = norm() if config.post_norms else None
        self.post_ffw_norm = norm() if config.post_norms else None

    def __call__(self, x, positions, queries: Tokens, keys: Tokens, cache, slot):
        added, cache = self.self_attn(
            self.pre_attention_norm(x), positions, queries, keys, cache, slot
        )
        x = x + _normed(self.post_attention_norm, added).astype(x.dtype)
        added = self.mlp(self.pre_ffw_norm(x))
        return x + _normed(self.post_ffw_norm, added).astype(x.dtype), cache


def _normed(norm: RMSNorm | None, x):
    return x if norm is None else norm(x)


class Gemma(nnx.Module):
    """Tied embeddings, `depth` blocks, final norm."""

    def __init__(
        self,
        config: GemmaConfig,
        *,
        remat: str = "none",
        dtype: Dtype = jnp.float32,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.config = config
        self.remat = remat
        self.dtype = dtype
        init = nnx.initializers.normal(config.width**-0.5)
        self.embed_tokens = nnx.Param(
            init(rngs.params(), (config.vocab_size, config.width), param_dtype),
            axes=("vocab", "embed"),
        )
        dtypes = dict(dtype=dtype, param_dtype=param_dtype)
        self.layers = stack(config.depth, lambda r: Block(config, rngs=r, **dtypes), rngs)
        self.final_norm = RMSNorm(config.width, param_dtype=param_dtype)

    def embed(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Token embeddings times sqrt(D), float32."""
        rows = jnp.take(self.embed_tokens.get_value(), tokens, axis=0).astype(jnp.float32)
        return rows * self.config.width**0.5

    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        queries: Tokens,
        *,
        keys: Tokens | None = None,
        cache: Cache | None = None,
        slot: Int[Array, ""] | int = 0,
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        """Runs the blocks.

        Args:
          x: embedded input, float32.
          positions: 0 for the first token of a row.
          queries: describes the tokens of x.
          keys: describes what is attended to: x itself if None; with a cache, all its slots.
          cache: if given, keys and values of x are written to it at `slot` (the same for all rows)
            before attention reads it whole.
          slot: first slot to write.

        Returns:
          Hidden states after the final norm, float32, and the cache.
        """
        keys = queries if keys is None else keys

        def body(layer, x, layer_cache):
            return layer(x, positions, queries, keys, layer_cache, slot)

        x, cache = scan(self.layers, body, x, cache, remat=self.remat)
        return self.final_norm(x), cache

    def logits(self, hidden: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """Vocabulary logits, float32, capped if the config says so."""
        table = self.embed_tokens.get_value().astype(self.dtype)
        logits = jnp.einsum(
            "...D,VD->...V", hidden.astype(self.dtype), table, preferred_element_type=jnp.float32
        )
        cap = self.config.final_logits_softcap
        return logits if cap is None else cap * jnp.tanh(logits / cap)
