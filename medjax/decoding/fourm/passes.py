"""Classifier-free guidance (arXiv:2207.12598), with one and with several conditions.

Logits become `base + sum_c weight_c * (logits_c - base)` (arXiv:2206.01714): the base reads less
than the others. All passes run as one batch, pass by pass: row `c * B + b` is sample b of pass c.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax.decoding.fourm.known import Known, pack
from medjax.models.fourm import EncoderInput, FourMConfig
from medjax.models.fourm.model import Features


class Passes(NamedTuple):
    """What the encoder reads in each of C passes, the base first.

    Attributes:
      inputs: packed, C * B rows.
      features: patches and embeddings, C * B rows.
      weights: of all passes but the base.
    """

    inputs: EncoderInput
    features: dict[str, Float[Array, "CB n I"]]
    weights: Float[Array, "C-1"]

    def repeat(self, x: Array) -> Array:
        """What is the same in every pass, for all of them."""
        return jnp.tile(x, (len(self.weights) + 1, *[1] * (x.ndim - 1)))

    def combine(self, logits: Float[Array, "CB ..."]) -> Float[Array, "B ..."]:
        """The guided logits."""
        base, *others = jnp.split(logits, len(self.weights) + 1)
        # With one weight of 1 nothing is left of the base but its rounding.
        return base + sum(w * (x - base) for w, x in zip(self.weights, others, strict=True))


def build(
    config: FourMConfig,
    known: Mapping[str, Known],
    features: Features,
    reads: Sequence[Sequence[str]],
    weights: Float[Array, "C-1"],
    blanks: Mapping[str, int],
    batch: int,
) -> Passes:
    """Packs every pass.

    Args:
      known: all that there is to read. features: patches and embeddings by modality.
      reads: names of what each pass reads of it, the base first.
      weights: of all passes but the base.
      blanks: of sequences, the id that stands where they are not read; of embeddings any number: a
        vector of zeros does.
      batch: B.
    """
    packed, seen = [], []
    for read in reads:
        of_pass = {n: known[n] if n in read else _blank(known[n], blanks.get(n)) for n in known}
        packed.append(pack(config, of_pass, batch))
        seen.append({n: _seen(features[n], n in read) for n in known if n in features})
        # The model wants features of all its modalities, also where no token is of theirs.
        others = [m for m in config.modalities if not m.has_ids and m.name not in known]
        seen[-1] |= {m.name: jnp.zeros((batch, 1, m.features)) for m in others}
    return Passes(
        EncoderInput(*(jnp.concatenate(x) for x in zip(*packed, strict=True))),
        {name: jnp.concatenate([of[name] for of in seen]) for name in seen[0]},
        weights,
    )


def _seen(features: Float[Array, "B n I"], read: bool) -> Float[Array, "B n I"]:
    """A blank's vector is zero; where nothing is read, none is."""
    return jnp.asarray(features) if read else jnp.zeros_like(features)


def _blank(known: Known, blank: int | None) -> Known:
    """What a pass reads instead of a modality: nothing, or one token."""
    first = jnp.arange(known.valid.shape[1]) == 0
    tokens = jnp.full(known.tokens.shape, 0 if blank is None else blank, jnp.int32)
    return Known(tokens, jnp.broadcast_to(first & (blank is not None), known.valid.shape))
