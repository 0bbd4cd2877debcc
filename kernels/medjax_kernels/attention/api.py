"""The one attention function."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax_kernels import selection
from medjax_kernels.attention import pallas_triton, reference, xla
from medjax_kernels.attention.options import Options
from medjax_kernels.attention.tokens import Tokens, check, shared_rules, with_positions
from medjax_kernels.selection import Support

# Best first. The width is that of a head.
SUPPORT = {
    "pallas_triton": Support((8, 0), widths=(1, 256), auto=("bfloat16", "float16")),
    "xla": Support(),
    "reference": Support(),
}
_FUNCTIONS = {
    "pallas_triton": pallas_triton.attention,
    "xla": xla.attention,
    "reference": reference.attention,
}


def attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    *,
    queries: Tokens = Tokens(),
    keys: Tokens = Tokens(),
    scale: float | None = None,
    soft_cap: float | None = None,
    window: int | None = None,
    implementation: str = "auto",
) -> Float[Array, "B T N H"]:
    """Softmax attention with grouped heads, differentiable in q, k and v.

    Args:
      q: queries. N is a multiple of K: query head n reads key/value head n // (N // K).
      k: keys, of the same float dtype as q.
      v: values, of the same float dtype as q.
      queries: per-token description of the queries, see `Tokens`.
      keys: per-token description of the keys.
      scale: multiplies the logits; 1 / sqrt(H) if None.
      soft_cap: if given, logits become `soft_cap * tanh(logits / soft_cap)` before masking
        (Gemma 2, arXiv:2408.00118).
      window: if given, a query attends only to keys less than this many positions away from it, on
        either side (`Tokens.position`; 0, 1, 2, ... if None and T = S). Together with causal blocks
        it is Gemma 2's sliding window.
      implementation: "reference" (plain, holds all T x S logits), "xla" (tiles; holds one tile of
        logits, recomputes it in the backward pass), "pallas_triton" (fused, for GPUs of compute
        capability 8.0 and up and heads of at most 256), or "auto" (pallas_triton where it runs and
        q is bfloat16 or float16, else xla).

    Returns:
      [B, T, N, H] in q's dtype; softmax and sums are float32. A query that may attend to nothing
      gets zeros. Whatever numbers stand at keys that nobody may attend to, they change nothing;
      they must be numbers, since 0 times NaN is NaN wherever it is computed.

    Raises:
      ValueError: shapes or dtypes that do not fit together, or an implementation that is unknown
        or cannot run here.
    """
    if q.ndim != 4 or k.ndim != 4 or k.shape != v.shape:
        raise ValueError(
            f"expected q [B,T,N,H] and k, v [B,S,K,H], got {q.shape}, {k.shape}, {v.shape}"
        )
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3] or q.shape[2] % max(k.shape[2], 1):
        raise ValueError(
            f"q {q.shape} and k {k.shape} must share batch and head width, and the number of query "
            "heads must be a multiple of the number of key/value heads"
        )
    if not (q.dtype == k.dtype == v.dtype and jnp.issubdtype(q.dtype, jnp.floating)):
        raise ValueError(f"q, k, v must share one float dtype, got {q.dtype}, {k.dtype}, {v.dtype}")
    check(queries, q.shape[0], q.shape[1], "queries")
    check(keys, k.shape[0], k.shape[1], "keys")
    if soft_cap is not None and not soft_cap > 0:
        raise ValueError(f"soft_cap is {soft_cap}; it must be positive, or None for no cap")
    if window is not None:
        if not isinstance(window, int) or window < 1:
            raise ValueError(f"window is {window!r}; it must be an int of at least 1")
        if q.shape[1] != k.shape[1] and (queries.position is None or keys.position is None):
            raise ValueError(
                "a window between queries and keys of other lengths needs `position` on both sides"
            )
        queries, keys = with_positions(queries, q.shape[1]), with_positions(keys, k.shape[1])
    queries, keys = shared_rules(queries, keys, window)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    name = selection.choose("attention", implementation, SUPPORT, dtype=q.dtype, width=q.shape[-1])
    if 0 in q.shape or 0 in k.shape:
        return jnp.zeros_like(q)  # of nothing, or from nothing
    return _FUNCTIONS[name](q, k, v, queries, keys, Options(scale, soft_cap, window))
