"""Small masking schemes that try every rule, and samples for them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from medjax_kernels.masking import Masked, MaskingScheme, Modality, masking
from medjax_kernels.masking.scheme import KEEPS

SENTINELS = tuple(range(900, 912))
PAD = 7


def image(name, tokens, inputs, targets, **options):
    return Modality(name, "image", tokens, inputs, targets, **options)


def sequence(name, tokens, inputs, targets, **options):
    return Modality(name, "sequence", tokens, inputs, targets, **options)


SCHEMES = {
    # Patches, budgets from nothing on, an image of 16 and one of 5 tokens, a sequence of one token.
    "mixture": MaskingScheme(
        (
            image("rgb", 12, (1.0, 5.0, 0.2), (0.0, 0.0, 0.0)),
            image("tok_rgb", 16, (1.0, 0.0, 1.0), (1.0, 1.0, 0.5)),
            sequence("caption", 9, (2.0, 0.0, 1.0), (1.0, 2.0, 1.0), keep=KEEPS),
            image("tok_depth", 5, (0.01, 0.0, 1.0), (1.0, 0.0, 1.0)),
            sequence("word", 1, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), keep=("binary",) * 3),
        ),
        input_tokens=(0, 24),
        target_tokens=(0, 20),
        sentinels=SENTINELS,
        pad=PAD,
    ),
    # Floors that need many draws, caps that are met, and packed lengths below the budgets.
    "floors": MaskingScheme(
        (
            sequence("caption", 11, (1.0, 1.0), (1.0, 3.0), min_tokens=2, keep=("all", "random")),
            image("tok_rgb", 6, (3.0, 0.5), (1.0, 1.0), min_tokens=2),
            image("tok_depth", 9, (1.0, 0.0), (0.0, 1.0)),
        ),
        input_tokens=(14, 14),
        target_tokens=(9, 12),
        encoder_length=10,
        decoder_length=8,
        sentinels=SENTINELS,
        pad=PAD,
        weights=(0.25, 0.75),
        max_tries=6,
    ),
    # No target budget, chunks, ids that are moved; lengths that are longer than what there is.
    "rest": MaskingScheme(
        (
            sequence("det", 10, (1.0,), (0.0,), vocab_offset=100),
            image("tok_rgb", 8, (1.0,), (0.0,)),
        ),
        input_tokens=(3, 6),
        target_tokens=None,
        encoder_length=9,
        decoder_length=32,
        sentinels=SENTINELS,
        pad=PAD,
        shuffle_decoder=False,
    ),
}  # fmt: skip
WITHOUT_TOKENS = {"rgb"}


def samples(scheme: MaskingScheme, batch: int, seed: int, image_lengths: bool = True):
    """Tokens that are distinct within a sample, lengths from 0 on, chunks, and keys."""
    rng = np.random.default_rng(seed)
    tokens, lengths, chunks = {}, {}, {}
    for i, m in enumerate(scheme.modalities):
        if m.name not in WITHOUT_TOKENS:
            rows = np.stack([rng.permutation(m.max_tokens) for _ in range(batch)])
            tokens[m.name] = (rows + 20 * (i + 1)).astype(np.int32)
        if m.kind == "sequence" or (image_lengths and m.name != "tok_rgb"):
            lengths[m.name] = rng.integers(0, m.max_tokens + 1, batch).astype(np.int32)
        if m.name == "det":
            jumps = rng.integers(0, 2, (batch, m.max_tokens))
            jumps[:, 0] = 0
            chunks[m.name] = np.cumsum(jumps, axis=1).astype(np.int32)
    keys = jax.random.split(jax.random.key(seed), batch)
    return jax.tree.map(jnp.asarray, (tokens, lengths, keys, chunks))


@functools.cache
def compiled(name: str, implementation: str):
    """The masking of a scheme, compiled once for each batch size."""

    @jax.jit
    def run(tokens, lengths, keys, chunks) -> Masked:
        return masking(
            SCHEMES[name], tokens, lengths, keys, chunks=chunks, implementation=implementation
        )

    return run
