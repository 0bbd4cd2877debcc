"""How good a tokenizer is: pure functions on NumPy or JAX arrays, also within `jit`."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def psnr(
    images: Float[Array, "B Y X C"], truth: Float[Array, "B Y X C"], value_range: float
) -> Float[Array, "B"]:
    """Peak signal-to-noise ratio, decibels; infinite for equal images.

    Args:
      value_range: from the least possible pixel to the greatest, 2 for images in [-1, 1].
    """
    error = jnp.mean((jnp.asarray(images) - truth) ** 2, axis=(1, 2, 3))
    return 10 * jnp.log10(value_range**2 / error)


def dice(
    labels: Int[Array, "B Y X"], truth: Int[Array, "B Y X"], num_classes: int
) -> Float[Array, "B num_classes"]:
    """Dice coefficient of each class in each mask; NaN where neither mask has the class.

    Pixels whose true class is none of the classes do not count.
    """
    labels, truth = jnp.asarray(labels), jnp.asarray(truth)
    known = ((truth >= 0) & (truth < num_classes))[..., None]
    ours, theirs = ((x[..., None] == jnp.arange(num_classes)) & known for x in (labels, truth))
    size = ours.sum((1, 2)) + theirs.sum((1, 2))
    return jnp.where(size > 0, 2 * (ours & theirs).sum((1, 2)) / jnp.maximum(size, 1), jnp.nan)


def code_counts(ids: Int[Array, "..."], num_codes: int) -> Float[Array, "V"]:
    """How often each id occurs, float32; counts of parts add up."""
    # Whole numbers: whatever the order of addition, the sum is the same.
    return jnp.zeros(num_codes).at[jnp.ravel(ids)].add(1.0)


def codebook_use(counts: Float[Array, "V"]) -> Float[Array, ""]:
    """The share of codes that occur, in [0, 1]."""
    return jnp.mean(jnp.asarray(counts) > 0)


def perplexity(counts: Float[Array, "V"]) -> Float[Array, ""]:
    """The number of codes that, used equally, would say as much: in [1, V]; 0 without any."""
    counts = jnp.asarray(counts)
    total = counts.sum()
    share = counts / jnp.maximum(total, 1.0)
    entropy = -jnp.sum(share * jnp.log(jnp.where(share > 0, share, 1.0)))
    return jnp.where(total > 0, jnp.exp(entropy), 0.0)
