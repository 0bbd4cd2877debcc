"""Finite scalar quantization (arXiv:2309.15505): every dimension is rounded to a few levels.

Formulas and their names are those of the paper's appendix A.1.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from medjax.models.tokenizers.config import FSQConfig
from medjax.models.tokenizers.quantized import Quantized, straight_through

# Keeps the bounds of the outermost levels from being reached.
_EPS = 1e-3


def bound(latents: Float[Array, "... D"], levels: np.ndarray) -> Float[Array, "... D"]:
    """Latents squeezed so that rounding gives one of `levels` values.

    Those are -(L-1)/2 .. (L-1)/2 for an odd L and -L/2 .. L/2-1 for an even one.
    """
    half = (levels - 1) * (1 - _EPS) / 2
    offset = np.where(levels % 2 == 1, 0.0, 0.5)
    shift = np.tan(offset / half)
    squeezed = jnp.tanh(latents.astype(jnp.float32) + shift.astype(np.float32))
    return squeezed * half.astype(np.float32) - offset.astype(np.float32)


class FSQ(nnx.Module):
    """Codes in [-1, 1], whose ids count the levels like digits, the first dimension's fastest."""

    def __init__(self, config: FSQConfig):
        self.config = config

    @property
    def _levels(self) -> np.ndarray:
        return np.array(self.config.levels)

    @property
    def _basis(self) -> np.ndarray:
        return np.cumprod([1, *self.config.levels[:-1]]).astype(np.int32)

    def __call__(self, latents: Float[Array, "... D"]) -> Quantized:
        """The codes of latents; there is nothing to commit to."""
        bounded = bound(latents, self._levels)
        rounded = jnp.round(bounded)
        half = self._levels // 2
        ids = jnp.sum((rounded.astype(jnp.int32) + half) * self._basis, axis=-1, dtype=jnp.int32)
        codes = straight_through(bounded, rounded) / half.astype(np.float32)
        return Quantized(codes, ids, bounded, jnp.zeros(ids.shape))

    def lookup(self, ids: Int[Array, "..."]) -> Float[Array, "... D"]:
        """The codes of ids, float32."""
        digits = (ids[..., None] // self._basis) % self._levels
        half = self._levels // 2
        return (digits - half).astype(jnp.float32) / half.astype(np.float32)
