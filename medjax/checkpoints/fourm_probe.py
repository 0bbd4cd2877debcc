"""A few random tokens of every modality of a 4M model, to compare what two checkpoints compute."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from medjax.models.fourm import DecoderInput, EncoderInput, FourM, FourMConfig


class FourMProbe(NamedTuple):
    """Input of one forward pass; see `FourM.hidden`."""

    encoder: EncoderInput
    decoder: DecoderInput
    features: dict[str, Float[Array, "B n I"]]

    def ask(self, model: FourM) -> Float[Array, "B T V"]:
        """Logits of all targets' vocabularies, one after another, at every target token."""
        hidden = model.hidden(self.encoder, self.decoder, self.features)
        return jnp.concatenate([model.logits(hidden, n) for n in model.config.targets], axis=-1)


def make(config: FourMConfig, *, tokens: int = 4, seed: int = 0) -> FourMProbe:
    """A probe with at most `tokens` tokens of every input and of every target."""
    rng = np.random.default_rng(seed)

    def packed(names: Sequence[str]) -> dict[str, Array]:
        parts: dict[str, list[np.ndarray]] = {}
        block = 0
        for name in names:
            modality = config.modality(name)
            count = min(tokens, modality.length)
            last = block if modality.is_image else block + count - 1
            ids = rng.integers(0, modality.vocab_size or 1, (2, count))
            row = {
                "tokens": ids[0],
                "targets": ids[1],
                "positions": np.sort(rng.choice(modality.length, count, replace=False)),
                "modality": np.full(count, config.index(name)),
                # One for an image; counting up in a sequence, and from target to target.
                "block": np.linspace(block, last, count),
            }
            block = last + 1
            for field, values in row.items():
                parts.setdefault(field, []).append(values)
        arrays = {f: np.concatenate(values)[None].astype(np.int32) for f, values in parts.items()}
        arrays["valid"] = np.ones_like(arrays["tokens"], bool)
        return {field: jnp.asarray(array) for field, array in arrays.items()}

    encoder, decoder = packed(config.inputs), packed(config.targets)
    features = {
        m.name: jnp.asarray(rng.uniform(-1, 1, (1, m.length, m.features)), jnp.float32)
        for m in config.modalities
        if not m.has_ids
    }
    return FourMProbe(
        EncoderInput(*(encoder[field] for field in EncoderInput._fields)),
        DecoderInput(*(decoder[field] for field in DecoderInput._fields)),
        features,
    )
