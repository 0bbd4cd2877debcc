"""The masking task that tools measure: five modalities, as in 4M's own training."""

import jax
import jax.numpy as jnp
import numpy as np
from medjax_kernels.masking import MaskingScheme, Modality

IMAGES, IMAGE_TOKENS = ("rgb", "tok_rgb", "tok_semseg"), 196
SEQUENCES, SEQUENCE_TOKENS = {"caption": 40, "det": 24}, 64


def five_modalities(budget: int = 128) -> MaskingScheme:
    """Three images and two sequences, and two components: everything from everything, and all
    from rgb. `budget`: of the input and of the target."""
    modalities = [
        Modality(
            name,
            "image" if name in IMAGES else "sequence",
            IMAGE_TOKENS if name in IMAGES else SEQUENCE_TOKENS,
            input_alphas=(1.0, 10.0 if name == "rgb" else 0.0),
            target_alphas=(0.0 if name == "rgb" else 1.0,) * 2,
            keep=() if name in IMAGES else ("random", "all"),
        )
        for name in (*IMAGES, *SEQUENCES)
    ]
    sentinels = tuple(range(4, 4 + SEQUENCE_TOKENS // 2 + 1))
    return MaskingScheme(tuple(modalities), (budget, budget), (budget, budget), sentinels=sentinels)


def samples(batch: int, seed: int = 0) -> tuple[dict, dict, jax.Array]:
    """Tokens, lengths and keys of a batch; rgb's content is patches, which stay where they are."""
    rng = np.random.default_rng(seed)
    sizes = dict.fromkeys(IMAGES[1:], IMAGE_TOKENS) | dict.fromkeys(SEQUENCES, SEQUENCE_TOKENS)
    tokens = {
        name: jnp.asarray(rng.integers(200, 8000, (batch, size)), jnp.int32)
        for name, size in sizes.items()
    }
    lengths = {name: jnp.full(batch, size, jnp.int32) for name, size in SEQUENCES.items()}
    return tokens, lengths, jax.random.split(jax.random.key(seed), batch)
