"""How many tokens each modality gives to the input and to the target of a sample.

The rules are those of apple/ml-4m (fourm/data/masking.py: UnifiedMasking): floors of a Dirichlet
draw; each token that rounding leaves over goes to the greatest share of a new draw; caps; and all
again while a modality is below its floor. Which share of a Dirichlet is the greatest is a
categorical variable, whose probabilities are computed once.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, UInt

from medjax_kernels.masking import dirichlet
from medjax_kernels.masking.scheme import MaskingScheme

# A target budget that ends nothing; sums of two fit an int32.
UNLIMITED = 2**30


class _Mixture(NamedTuple):
    """The Dirichlet distributions of one side as tables; C components."""

    possible: np.ndarray  # bool [C, M]
    row: np.ndarray  # int32 [C, M], of `logs`
    logs: np.ndarray  # int32 [A, 2, K], one for each alpha that there is
    leftover: np.ndarray  # uint32 [C, M]


def _mixture(scheme: MaskingScheme, side: str) -> _Mixture:
    alphas = np.array([getattr(m, side) for m in scheme.modalities], np.float64).T
    distinct = sorted(set(alphas[alphas > 0].tolist()))
    return _Mixture(
        alphas > 0,
        np.searchsorted(distinct, alphas).astype(np.int32) * (alphas > 0),
        np.stack([dirichlet.log2_gamma_table(alpha) for alpha in distinct]),
        dirichlet.thresholds(np.stack([dirichlet.greatest_share(tuple(row)) for row in alphas])),
    )


def component(scheme: MaskingScheme, bits: UInt[Array, ""]) -> Int[Array, ""]:
    """Which component of the mixture a sample takes."""
    weights = np.ones(scheme.components) if scheme.weights is None else np.array(scheme.weights)
    return dirichlet.categorical(jnp.asarray(dirichlet.thresholds(weights)), bits)


def number(span: tuple[int, int], bits: UInt[Array, ""]) -> Int[Array, ""]:
    """A number drawn evenly from span[0] to span[1]."""
    return span[0] + (bits % np.uint32(span[1] - span[0] + 1)).astype(jnp.int32)


def draw(
    scheme: MaskingScheme,
    side: str,
    key: Key[Array, ""],
    chosen: Int[Array, ""],
    total: Int[Array, ""],
    caps: Int[Array, "M"],
) -> Int[Array, "M"]:
    """The budgets of one side of one sample.

    Args:
      side: "input" or "target".
      chosen: the mixture's component.
      total: tokens to share.
      caps: of each modality's budget.
    """
    mixture = jax.tree.map(jnp.asarray, _mixture(scheme, f"{side}_alphas"))
    count = len(scheme.modalities)
    floors = jnp.array([m.min_tokens for m in scheme.modalities], jnp.int32)
    possible, greatest = mixture.possible[chosen], getattr(scheme, f"{side}_tokens")[1]

    def attempt(index):
        bits = jax.random.bits(jax.random.fold_in(key, index), (2, count), jnp.uint32)
        logs = dirichlet.log2_gamma(mixture.logs, mixture.row[chosen], bits[0])
        budget = dirichlet.shares(logs, possible, total, greatest)
        takes = dirichlet.categorical(mixture.leftover[chosen], bits[1])
        left = jnp.arange(count) < total - jnp.sum(budget)  # less than one for each modality
        gained = left[:, None] & (takes[:, None] == jnp.arange(count))
        return jnp.minimum(budget + jnp.sum(gained, axis=0, dtype=jnp.int32), caps)

    if not any(m.min_tokens for m in scheme.modalities):
        return attempt(0)

    def too_low(state):
        index, budget = state
        return jnp.any(budget < floors) & (index < scheme.max_tries)

    first = (jnp.int32(1), attempt(0))
    return jax.lax.while_loop(too_low, lambda s: (s[0] + 1, attempt(s[0])), first)[1]


def caps(scheme: MaskingScheme, inputs: Int[Array, "M"] | None = None) -> Int[Array, "M"]:
    """Caps of the input budgets; given those, of the target budgets.

    A token of an image is input or target, not both; a sequence's spans share no budget.
    """
    most = jnp.array([m.max_tokens for m in scheme.modalities], jnp.int32)
    if inputs is None:
        return most
    image = np.array([m.kind == "image" for m in scheme.modalities])
    floors = jnp.array([m.min_tokens for m in scheme.modalities], jnp.int32)
    return jnp.maximum(floors, jnp.where(image, most - inputs, most))
