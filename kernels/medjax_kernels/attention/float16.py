"""What keeps gradients of logits within float16's range."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def gain(
    d_out: Float[Array, "B T N H"], v: Float[Array, "B S K H"], scale: float = 1.0
) -> Float[Array, "B K"] | None:
    """What gradients of logits are multiplied by before they are rounded; None: they need nothing.

    A probability times a small gradient may be less than float16's least number, and a scaled
    loss may bring it past its greatest. With this power of two, none is greater than 2^15: a
    gradient of a probability is at most the product of the lengths of its d_out and v, and so is
    what is subtracted from it, the sum of out * d_out.

    Args:
      d_out: gradients of the output. The N // K query heads of a key/value head share its gain.
      v: values; their dtype is what is rounded to.
      scale: what the gradients have been multiplied by before.
    """
    if v.dtype != jnp.float16:
        return None
    kv_heads = v.shape[2]

    def longest(x):
        x = x.reshape(*x.shape[:2], kv_heads, -1, x.shape[-1])
        lengths = jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32)), axis=-1))
        # What is not finite, and not attended to, does not count.
        return jnp.max(jnp.where(jnp.isfinite(lengths), lengths, 0.0), axis=(1, 3))

    _, exponent = jnp.frexp(2.0 * abs(scale) * longest(d_out) * longest(v))
    return jnp.ldexp(jnp.float32(1.0), 15 - exponent)
