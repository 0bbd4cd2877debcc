"""The one cross entropy function."""

from jaxtyping import Array, Float, Int

from medjax_kernels import selection
from medjax_kernels.cross_entropy import fused, pallas_triton_backward, reference, xla
from medjax_kernels.cross_entropy.scores import TokenScores

SUPPORT = {
    "pallas_triton": selection.Support((8, 0), auto=("bfloat16", "float16")),
    "xla": selection.Support(),
    "reference": selection.Support(),
}
FUSED = {
    "pallas_triton": pallas_triton_backward.IMPLEMENTATION,
    "xla": xla.IMPLEMENTATION,
}


def cross_entropy(
    hidden: Float[Array, "M D"],
    table: Float[Array, "V D"],
    targets: Int[Array, "M"],
    weights: Float[Array, "M"],
    *,
    soft_cap: float | None = None,
    label_smoothing: float = 0.0,
    implementation: str = "auto",
) -> TokenScores:
    """Cross entropy of softmax(hidden @ table.T) against targets, for tokens of non-zero weight.

    Args:
      hidden: last hidden states; the matmul runs in this dtype and accumulates in float32.
      table: one row per token of the vocabulary (the tied embedding); cast to hidden's dtype, a
        chunk at a time.
      targets: ids in [0, V); the scores of another one are NaN, if its weight is not zero.
      weights: float32; a token of weight zero costs nothing and gets no gradient.
      soft_cap: if given, logits become `soft_cap * tanh(logits / soft_cap)`.
      label_smoothing: share of the target's probability that is spread evenly over V.
      implementation: a name in `SUPPORT`, or "auto": pallas_triton on GPUs of compute capability
        8.0 and up in bfloat16 and float16, else xla. "reference" holds all M x V logits; the
        others a chunk of words at a time.

    Returns:
      Per-token scores. Gradients flow from `loss` to hidden and table alone.

    On a device mesh xla and pallas_triton keep tokens, vocabulary and width cut as they lie
    (`partitioning`). Kernels compute in hidden's dtype; float32 is not rounded to TF32 in
    pallas_triton, and is rounded as jax.default_matmul_precision says in the others.

    Raises:
      ValueError: shapes that do not fit, smoothing outside [0, 1), an unknown implementation, or
        one that can't run on the device.
    """
    if hidden.ndim != 2 or table.ndim != 2 or hidden.shape[1] != table.shape[1]:
        raise ValueError(f"expected hidden [M,D], table [V,D], got {hidden.shape}, {table.shape}")
    tokens = hidden.shape[0]
    if targets.shape != (tokens,) or weights.shape != (tokens,):
        raise ValueError(
            f"targets {targets.shape} and weights {weights.shape} must be [{tokens}] like hidden"
        )
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing {label_smoothing} is not in [0, 1)")
    if soft_cap is not None and not soft_cap > 0:
        raise ValueError(f"soft_cap is {soft_cap}; it must be positive, or None for no cap")
    chosen = selection.choose(
        "cross_entropy", implementation, SUPPORT, dtype=hidden.dtype, width=hidden.shape[1]
    )
    if chosen == "reference":
        return reference.cross_entropy(hidden, table, targets, weights, soft_cap, label_smoothing)
    return fused.cross_entropy(
        FUSED[chosen], hidden, table, targets, weights, soft_cap, label_smoothing
    )
