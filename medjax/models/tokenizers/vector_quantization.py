"""Vector quantization: a latent becomes the nearest code of a codebook (arXiv:1711.00937).

No gradient reaches the codebook. It follows the latents by moving averages (the paper's appendix
A.1): `updated` takes the codebook before a step and what the step's tokens add up to, and gives the
codebook after it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from medjax.models.params import Carried
from medjax.models.tokenizers.config import VQConfig
from medjax.models.tokenizers.quantized import Quantized, straight_through

_EXACT = jax.lax.Precision.HIGHEST


class Codebook(NamedTuple):
    """The state of the quantizer; float32.

    Attributes:
      codes: V vectors.
      counts: moving average of how many tokens each code stood for in a step.
    """

    codes: Float[Array, "V D"]
    counts: Float[Array, "V"]


class Usage(NamedTuple):
    """What the tokens of a batch add up to; those of parts of a batch add up to the batch's.

    Attributes:
      counts: how many tokens became each code. sums: of their latents.
    """

    counts: Float[Array, "V"]
    sums: Float[Array, "V D"]


def prepared(latents: Float[Array, "... D"], distance: str) -> Float[Array, "... D"]:
    """Latents in float32; for the cosine scaled to length 1, where nearest is most alike."""
    latents = latents.astype(jnp.float32)
    return _unit(latents) if distance == "cosine" else latents


def nearest(latents: Float[Array, "... D"], codes: Float[Array, "V D"]) -> Int[Array, "..."]:
    """int32 ids of the codes with the least squared distance; of equal ones the first."""
    likeness = jnp.einsum("...D,VD->...V", latents, codes, precision=_EXACT)
    return jnp.argmin(jnp.sum(codes**2, axis=1) - 2 * likeness, axis=-1).astype(jnp.int32)


def quantize(
    latents: Float[Array, "... D"], codes: Float[Array, "V D"], config: VQConfig
) -> Quantized:
    """The nearest codes of latents."""
    latents = prepared(latents, config.distance)
    ids = nearest(jax.lax.stop_gradient(latents), codes)
    chosen = jnp.take(codes, ids, axis=0)
    commitment = config.commitment * jnp.mean((latents - chosen) ** 2, axis=-1)
    return Quantized(straight_through(latents, chosen), ids, latents, commitment)


def usage(latents: Float[Array, "*B D"], ids: Int[Array, "*B"], num_codes: int) -> Usage:
    """Counts and sums of a batch."""
    # A product and no scattered addition, whose order changes from run to run on a GPU.
    members = jax.nn.one_hot(ids.reshape(-1), num_codes, dtype=jnp.float32)
    rows = latents.reshape(-1, latents.shape[-1])
    return Usage(members.sum(axis=0), jnp.einsum("nV,nD->VD", members, rows, precision=_EXACT))


def updated(
    codebook: Codebook, usage: Usage, fresh: Float[Array, "V D"], config: VQConfig
) -> tuple[Codebook, Float[Array, ""]]:
    """The codebook after a step.

    A code is the moving average of the latents' sums, divided by that of their counts. Both follow
    from codes and counts, so there is no third array. With the cosine it is scaled to length 1.

    Args:
      codebook: before the step.
      usage: of all the step's tokens.
      fresh: for each code, the latent that takes its place if it is dead.

    Returns:
      The codebook, and how many codes were dead. A code that starts anew counts as little as one
      may that lives: it is dead again if the next step does not use it.
    """
    decay = config.decay
    counts = decay * codebook.counts + (1 - decay) * usage.counts
    kept = (decay * codebook.counts)[:, None] * codebook.codes
    sums = kept + (1 - decay) * usage.sums
    alive = (counts > jnp.finfo(jnp.float32).tiny)[:, None]
    codes = jnp.where(alive, sums / jnp.where(alive, counts[:, None], 1.0), codebook.codes)
    if config.distance == "cosine":
        codes = _unit(codes)
    least = config.restart_below * usage.counts.sum() / config.num_codes
    dead = counts < least
    codes = jnp.where(dead[:, None], fresh, codes)
    return Codebook(codes, jnp.where(dead, least, counts)), dead.sum(dtype=jnp.float32)


def _unit(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x**2, axis=-1, keepdims=True), 1e-12))


class VectorQuantizer(nnx.Module):
    """A codebook, and latents as its codes."""

    def __init__(self, config: VQConfig, *, rngs: nnx.Rngs):
        self.config = config
        shape = (config.num_codes, config.code_width)
        codes = prepared(jax.random.normal(rngs.params(), shape), config.distance)
        self.codes = Carried(codes, axes=(None, None))
        # Nothing was counted yet: the first step makes latents of all codes that it does not use.
        self.counts = Carried(jnp.zeros(config.num_codes), axes=(None,))

    def __call__(self, latents: Float[Array, "... D"]) -> Quantized:
        """The nearest codes of latents."""
        return quantize(latents, self.codes.get_value(), self.config)

    def lookup(self, ids: Int[Array, "..."]) -> Float[Array, "... D"]:
        """The codes of ids, float32."""
        return jnp.take(self.codes.get_value(), ids, axis=0)
