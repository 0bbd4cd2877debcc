"""What is computed of one tile: heads first, and matmuls that XLA is fast at.

Within a tile, the G query heads of a key/value head form one matrix with their queries: XLA has
fast batched matmuls for [B, K, G * T, H] on every device, and slow loops for the same sums in other
orders (5 times slower on a CPU for multi-query attention).
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from medjax_kernels.attention.options import Options
from medjax_kernels.attention.tokens import Tokens, allowed


def heads_first(x: Float[Array, "B T NH"], kv_heads: int, width: int) -> Float[Array, "B K G T H"]:
    """Queries, or, with G = 1, keys and values."""
    return x.reshape(*x.shape[:2], kv_heads, -1, width).transpose(0, 2, 3, 1, 4)


def heads_last(x: Float[Array, "B K G T H"]) -> Float[Array, "B T NH"]:
    """The way back."""
    x = x.transpose(0, 3, 1, 2, 4)
    return x.reshape(*x.shape[:2], -1)


def matmul(equation: str, a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """einsum of arrays whose axes G and T are one, summed in float32."""

    def fold(x):
        return x.reshape(*x.shape[:2], -1, x.shape[-1])

    return jnp.einsum(equation, fold(a), fold(b), preferred_element_type=jnp.float32)


def tile_logits(
    q: Float[Array, "B K G T H"],
    k: Float[Array, "B K 1 S H"],
    queries: Tokens,
    keys: Tokens,
    options: Options,
) -> tuple[Float[Array, "B K G T S"], Bool[Array, "B 1 1 T S"] | None]:
    """Capped logits, and which of them count; None if all do."""
    logits = matmul("bkmh,bksh->bkms", q, k).reshape(*q.shape[:4], -1) * options.scale
    if options.soft_cap is not None:
        logits = options.soft_cap * jnp.tanh(logits / options.soft_cap)
    may = allowed(queries, keys, options.window)
    return logits, None if may is None else may[:, None, None]
