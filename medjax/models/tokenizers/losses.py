"""How far a decoded image is from the true one: one loss an example, float32."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from medjax.errors import UserError
from medjax.models.tokenizers.config import ImageTokenizerConfig


def l2(images: Float[Array, "B Y X C"], truth: Float[Array, "B Y X C"]) -> Float[Array, "B"]:
    """Mean squared difference."""
    return jnp.mean((images - truth) ** 2, axis=(1, 2, 3))


def l1(images: Float[Array, "B Y X C"], truth: Float[Array, "B Y X C"]) -> Float[Array, "B"]:
    """Mean absolute difference."""
    return jnp.mean(jnp.abs(images - truth), axis=(1, 2, 3))


def cross_entropy(logits: Float[Array, "B Y X C"], truth: Int[Array, "B Y X"]) -> Float[Array, "B"]:
    """Mean over the pixels that are of a class, nats; 0 where there are none."""
    known = (truth >= 0) & (truth < logits.shape[-1])
    log_prob = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(log_prob, jnp.where(known, truth, 0)[..., None], axis=-1)[..., 0]
    total = jnp.where(known, -chosen, 0.0).sum((1, 2))
    return total / jnp.maximum(known.sum((1, 2)), 1)


IMAGE_LOSSES: dict[str, Callable[[Array, Array], Array]] = {"l2": l2, "l1": l1}


def reconstruction(config: ImageTokenizerConfig, name: str) -> Callable[[Array, Array], Array]:
    """The loss of a tokenizer's kind: (decoded [B,Y,X,C], truth) -> [B].

    Images are compared in units of the config's std, so that a loss means the same for all.

    Args:
      name: of images a key of IMAGE_LOSSES; of masks "cross_entropy".

    Raises:
      UserError: a loss that the kind does not have.
    """
    known = tuple(IMAGE_LOSSES) if config.kind == "image" else ("cross_entropy",)
    if name not in known:
        raise UserError(
            f"reconstruction loss {name!r}: of kind {config.kind!r} it is one of {', '.join(known)}"
        )
    if config.kind == "mask":
        return cross_entropy
    std = np.array(config.std or (1.0,), np.float32)
    return lambda images, truth: IMAGE_LOSSES[name](images / std, truth / std)
