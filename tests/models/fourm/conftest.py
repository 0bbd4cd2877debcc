"""A tiny 4M with a modality of every kind, and a batch for it."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from medjax.models.fourm import DecoderInput, EncoderInput, FourM, FourMConfig, Modality

MODALITIES = (
    Modality("scan", "patches", image_size=8, patch_size=4, channels=1),
    Modality("tok_scan", "image_tokens", 11, image_size=12, patch_size=4),
    Modality("report", "sequence", 17, max_length=8),
    Modality("pose", "sequence_tokens", 7, max_length=5),
    Modality("prior", "sequence_embeddings", max_length=3, channels=5),
    Modality("tok_global", "image_tokens", 9, image_size=8, patch_size=4, learned_positions=True),
)
NAMES = tuple(m.name for m in MODALITIES)
TARGETS = ("tok_scan", "report", "pose", "tok_global")


def tiny(**changes) -> FourMConfig:
    fields = dict(
        width=16, encoder_depth=2, decoder_depth=2, num_heads=4, modalities=MODALITIES,
        inputs=NAMES, targets=TARGETS,
    )  # fmt: skip
    return FourMConfig(**{**fields, **changes})


class Batch(NamedTuple):
    encoder: EncoderInput
    decoder: DecoderInput
    features: dict[str, np.ndarray]


def make_batch() -> Batch:
    """Two samples; the first has padding on both sides, the second an absent target modality."""
    rng = np.random.default_rng(0)

    def packed(rows, length: int):
        """rows: (modality, position, token, target, block) of each slot, for each sample."""
        fields = np.zeros((5, len(rows), length), np.int32)
        valid = np.zeros((len(rows), length), bool)
        for i, row in enumerate(rows):
            fields[:, i, : len(row)] = np.array(row).T
            valid[i, : len(row)] = True
        return (*fields, valid)

    m = {name: NAMES.index(name) for name in NAMES}
    modality, positions, tokens, _, _, valid = packed(
        [
            [(m["scan"], 1, 0, 0, 0), (m["scan"], 3, 0, 0, 0), (m["report"], 0, 5, 0, 0),
             (m["report"], 1, 16, 0, 0), (m["prior"], 2, 0, 0, 0)],
            [(m["tok_scan"], 8, 10, 0, 0), (m["pose"], 0, 3, 0, 0), (m["pose"], 1, 6, 0, 0),
             (m["tok_global"], 0, 8, 0, 0), (m["tok_global"], 3, 0, 0, 0), (m["scan"], 0, 0, 0, 0),
             (m["prior"], 0, 0, 0, 0)],
        ],
        7,
    )  # fmt: skip
    encoder = EncoderInput(tokens, positions, modality, valid)
    modality, positions, tokens, targets, block, valid = packed(
        [
            [(m["tok_scan"], 0, 0, 4, 2), (m["tok_scan"], 7, 0, 10, 2), (m["report"], 0, 3, 16, 3),
             (m["report"], 1, 16, 2, 4), (m["report"], 2, 2, 9, 5)],
            [(m["tok_scan"], 2, 0, 0, 1), (m["pose"], 0, 1, 6, 2), (m["pose"], 1, 6, 5, 3),
             (m["tok_global"], 1, 0, 7, 6), (m["tok_global"], 2, 0, 8, 6),
             (m["tok_global"], 3, 0, 8, 6)],
        ],
        6,
    )  # fmt: skip
    decoder = DecoderInput(tokens, targets, positions, modality, block, valid)
    features = {
        "scan": rng.standard_normal((2, 4, 16)).astype(np.float32),
        "prior": rng.standard_normal((2, 3, 5)).astype(np.float32),
    }
    return Batch(encoder, decoder, features)


@pytest.fixture(scope="session")
def batch() -> Batch:
    return make_batch()


@pytest.fixture(scope="session")
def config():
    """Makes a tiny config; keyword arguments change fields."""
    return tiny


@pytest.fixture(scope="session")
def build():
    """Makes a model in which every parameter, norms and biases included, is random and matters."""

    def build(config: FourMConfig, seed: int = 0, **kwargs) -> FourM:
        model = nnx.eval_shape(lambda: FourM(config, rngs=nnx.Rngs(0), **kwargs))
        rng = np.random.default_rng(seed)
        for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
            target = variable.get_value()
            value = 0.3 * rng.standard_normal(target.shape) + (path[-1] == "scale")
            variable.set_value(jnp.asarray(value, target.dtype))
        return model

    return build
