"""The transformer blocks of 4M's encoder and decoder (apple/ml-4m, `fourm/models/fm_utils.py`)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int
from medjax_kernels import Tokens, attention

from medjax.models.fourm.config import FourMConfig
from medjax.models.layers import Dtype, LayerNorm, Linear, gelu, scan, stack

_xavier = nnx.initializers.xavier_uniform()
_normal = nnx.initializers.normal(0.02)
_ACTIVATIONS: dict[str, Callable] = {"gelu": gelu, "silu": jax.nn.silu}


class KeysValues(NamedTuple):
    """Keys and values of S tokens; of stacked layers, with a leading L."""

    k: Float[Array, "B S K H"]
    v: Float[Array, "B S K H"]


class Attention(nnx.Module):
    """Grouped-query attention, of tokens to themselves or to a context."""

    def __init__(self, config: FourMConfig, *, rngs: nnx.Rngs, **dtypes):
        self.config = config
        width, keys = config.width, config.kv_heads * config.head_dim
        qkv = dict(use_bias=config.qkv_bias, init=_xavier, rngs=rngs, **dtypes)
        self.q_proj = Linear(width, width, axes=("embed", "heads"), **qkv)
        self.k_proj = Linear(width, keys, axes=("embed", "kv_heads"), **qkv)
        self.v_proj = Linear(width, keys, axes=("embed", "kv_heads"), **qkv)
        self.o_proj = Linear(
            width, width, axes=("heads", "embed"), use_bias=config.proj_bias, init=_xavier,
            rngs=rngs, **dtypes,
        )  # fmt: skip
        self.q_norm = _norm(config, config.head_dim, dtypes) if config.qk_norm else None
        self.k_norm = _norm(config, config.head_dim, dtypes) if config.qk_norm else None

    def __call__(
        self,
        x: Float[Array, "B T D"],
        context: Float[Array, "B S D"],
        queries: Tokens,
        keys: Tokens,
    ) -> Float[Array, "B T D"]:
        return self.attend(x, self.keys_values(context), queries, keys)

    def keys_values(self, context: Float[Array, "B S D"]) -> KeysValues:
        """What a context is attended to by."""
        config = self.config
        heads = (*context.shape[:2], config.kv_heads, config.head_dim)
        k, v = self.k_proj(context).reshape(heads), self.v_proj(context).reshape(heads)
        return KeysValues(k if self.k_norm is None else self.k_norm(k).astype(v.dtype), v)

    def attend(
        self, x: Float[Array, "B T D"], context: KeysValues, queries: Tokens, keys: Tokens
    ) -> Float[Array, "B T D"]:
        """Attention to keys and values that are there already."""
        config = self.config
        q = self.q_proj(x).reshape(*x.shape[:2], config.num_heads, config.head_dim)
        q = q if self.q_norm is None else self.q_norm(q).astype(context.v.dtype)
        out = attention(q, context.k, context.v, queries=queries, keys=keys)
        return self.o_proj(out.reshape(x.shape))


class MLP(nnx.Module):
    """Two linear layers around an activation, or three with a gate (arXiv:2002.05202)."""

    def __init__(self, config: FourMConfig, *, rngs: nnx.Rngs, **dtypes):
        self.activation = config.activation
        kwargs = dict(use_bias=config.mlp_bias, init=_xavier, rngs=rngs, **dtypes)
        width, inner = config.width, config.mlp_dim
        self.gate_proj = (
            Linear(width, inner, axes=("embed", "mlp"), **kwargs) if config.gated else None
        )
        self.up_proj = Linear(width, inner, axes=("embed", "mlp"), **kwargs)
        self.down_proj = Linear(inner, width, axes=("mlp", "embed"), **kwargs)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        activation = _ACTIVATIONS[self.activation]
        if self.gate_proj is None:
            return self.down_proj(activation(self.up_proj(x)))
        return self.down_proj(activation(self.gate_proj(x)) * self.up_proj(x))


def _norm(config: FourMConfig, width: int, dtypes: dict) -> LayerNorm:
    return LayerNorm(width, use_bias=config.norm_bias, param_dtype=dtypes["param_dtype"])


class EncoderBlock(nnx.Module):
    """Pre-norm block; the residual stream is float32."""

    def __init__(self, config: FourMConfig, *, rngs: nnx.Rngs, **dtypes):
        self.layer_norm1 = _norm(config, config.width, dtypes)
        self.self_attn = Attention(config, rngs=rngs, **dtypes)
        self.layer_norm2 = _norm(config, config.width, dtypes)
        self.mlp = MLP(config, rngs=rngs, **dtypes)

    def __call__(self, x: Float[Array, "B S D"], keys: Tokens) -> Float[Array, "B S D"]:
        normed = self.layer_norm1(x)
        x = x + self.self_attn(normed, normed, Tokens(), keys).astype(x.dtype)
        return x + self.mlp(self.layer_norm2(x)).astype(x.dtype)


class DecoderBlock(nnx.Module):
    """Pre-norm block that also attends to a context; the residual stream is float32."""

    def __init__(self, config: FourMConfig, *, rngs: nnx.Rngs, **dtypes):
        self.layer_norm1 = _norm(config, config.width, dtypes)
        self.self_attn = Attention(config, rngs=rngs, **dtypes)
        self.query_norm = _norm(config, config.width, dtypes)
        self.context_norm = _norm(config, config.width, dtypes)
        self.cross_attn = Attention(config, rngs=rngs, **dtypes)
        self.layer_norm2 = _norm(config, config.width, dtypes)
        self.mlp = MLP(config, rngs=rngs, **dtypes)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        context: Float[Array, "B S D"],
        tokens: Tokens,
        context_tokens: Tokens,
    ) -> Float[Array, "B T D"]:
        normed = self.layer_norm1(x)
        x = x + self.self_attn(normed, normed, tokens, tokens).astype(x.dtype)
        return self._look(x, self.keys_values(context), context_tokens)

    def keys_values(self, context: Float[Array, "B S D"]) -> KeysValues:
        """What the context is attended to by, whatever the tokens are."""
        return self.cross_attn.keys_values(self.context_norm(context))

    def step(
        self,
        x: Float[Array, "B 1 D"],
        context: KeysValues,
        past: KeysValues,
        context_tokens: Tokens,
        slot: Int[Array, ""],
    ) -> tuple[Float[Array, "B 1 D"], KeysValues]:
        """One more token, which comes after those in slots below `slot` of `past`.

        Returns:
          What `__call__` returns for it, and `past` with its keys and values at `slot`.
        """
        normed = self.layer_norm1(x)
        past = KeysValues(
            *(
                jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), slot, axis=1)
                for old, new in zip(past, self.self_attn.keys_values(normed), strict=True)
            )
        )
        slots = jnp.broadcast_to(jnp.arange(past.k.shape[1]) <= slot, past.k.shape[:2])
        x = x + self.self_attn.attend(normed, past, Tokens(), Tokens(valid=slots)).astype(x.dtype)
        return self._look(x, context, context_tokens), past

    def _look(self, x: Float[Array, "B T D"], context: KeysValues, context_tokens: Tokens):
        """What comes after self-attention: a look at the context, and the MLP."""
        added = self.cross_attn.attend(self.query_norm(x), context, Tokens(), context_tokens)
        x = x + added.astype(x.dtype)
        return x + self.mlp(self.layer_norm2(x)).astype(x.dtype)


class Encoder(nnx.Module):
    """Register tokens, `encoder_depth` blocks, final norm."""

    def __init__(
        self,
        config: FourMConfig,
        *,
        remat: str = "none",
        dtype: Dtype = jnp.float32,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        dtypes = dict(dtype=dtype, param_dtype=param_dtype)
        self.remat = remat
        shape = (config.num_register_tokens, config.width)
        self.register_tokens = (
            nnx.Param(_normal(rngs.params(), shape, param_dtype), axes=(None, "embed"))
            if config.num_register_tokens
            else None
        )
        self.layers = stack(
            config.encoder_depth, lambda r: EncoderBlock(config, rngs=r, **dtypes), rngs
        )
        self.norm = _norm(config, config.width, dtypes)

    def __call__(self, x: Float[Array, "B S D"], keys: Tokens) -> Float[Array, "B S D"]:
        """The final hidden states of x, which has its register tokens, float32."""
        x, _ = scan(self.layers, lambda layer, x: (layer(x, keys), None), x, remat=self.remat)
        return self.norm(x)


class Decoder(nnx.Module):
    """The context's projection, the mask token, `decoder_depth` blocks, final norm."""

    def __init__(
        self,
        config: FourMConfig,
        *,
        remat: str = "none",
        dtype: Dtype = jnp.float32,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        dtypes = dict(dtype=dtype, param_dtype=param_dtype)
        self.remat = remat
        self.context_proj = Linear(
            config.width, config.width, axes=("embed", None), use_bias=True, init=_xavier,
            rngs=rngs, **dtypes,
        )  # fmt: skip
        self.mask_token = nnx.Param(
            _normal(rngs.params(), (config.width,), param_dtype), axes=("embed",)
        )
        self.layers = stack(
            config.decoder_depth, lambda r: DecoderBlock(config, rngs=r, **dtypes), rngs
        )
        self.norm = _norm(config, config.width, dtypes)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        context: Float[Array, "B S D"],
        tokens: Tokens,
        context_tokens: Tokens,
    ) -> Float[Array, "B T D"]:
        """The final hidden states of x, float32."""

        def body(layer, x):
            return layer(x, context, tokens, context_tokens), None

        x, _ = scan(self.layers, body, x, remat=self.remat)
        return self.norm(x)

    def keys_values(self, context: Float[Array, "B S D"]) -> KeysValues:
        """What every layer attends to the context by, with a leading L."""
        return scan(self.layers, lambda layer, none: (none, layer.keys_values(context)), ())[1]

    def step(
        self,
        x: Float[Array, "B 1 D"],
        context: KeysValues,
        past: KeysValues,
        context_tokens: Tokens,
        slot: Int[Array, ""],
    ) -> tuple[Float[Array, "B 1 D"], KeysValues]:
        """The final hidden state of one more token, float32; see `DecoderBlock.step`."""

        def body(layer, x, context, past):
            return layer.step(x, context, past, context_tokens, slot)

        x, past = scan(self.layers, body, x, context, past)
        return self.norm(x), past
