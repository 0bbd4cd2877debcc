"""Tiny image tokenizers in which every parameter matters."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from medjax.models.tokenizers import (
    ConvConfig,
    FSQConfig,
    ImageTokenizer,
    ImageTokenizerConfig,
    ViTConfig,
    VQConfig,
)

NETWORKS = {"vit": ViTConfig(8, 2, 2, 2.0), "conv": ConvConfig((4, 6))}
QUANTIZERS = {"vq": VQConfig(11, 3, "l2"), "cosine": VQConfig(11, 3), "fsq": FSQConfig((3, 4))}


def tiny(network: str = "vit", quantizer: str = "vq", kind: str = "image", **changes):
    fields = dict(
        kind=kind, image_size=8, patch_size=4, channels=3, encoder=NETWORKS[network],
        decoder=NETWORKS[network], quantizer=QUANTIZERS[quantizer],
    )  # fmt: skip
    if kind == "image":
        fields |= {"mean": (0.2, 0.4, 0.6), "std": (0.5, 1.0, 2.0)}
    return ImageTokenizerConfig(**{**fields, **changes})


def filled(config: ImageTokenizerConfig, seed: int = 0, **kwargs) -> ImageTokenizer:
    model = nnx.eval_shape(lambda: ImageTokenizer(config, rngs=nnx.Rngs(0), **kwargs))
    rng = np.random.default_rng(seed)
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        target = variable.get_value()
        value = 0.5 * rng.standard_normal(target.shape) + (path[-1] in ("scale", "counts"))
        variable.set_value(jnp.asarray(value, target.dtype))
    return model


@pytest.fixture(scope="session")
def config():
    """Makes a tiny config; keyword arguments change fields."""
    return tiny


@pytest.fixture(scope="session")
def build():
    """Makes a tokenizer with random parameters, norms and biases included."""
    return filled


class RoundTrip(NamedTuple):
    ids: np.ndarray
    latents: np.ndarray
    decoded: np.ndarray  # from the ids
    from_codes: np.ndarray


@functools.partial(jax.jit, static_argnums=0)
def _round_trip(graphdef, state, images) -> RoundTrip:
    model = nnx.merge(graphdef, state)
    quantized, ids = model.quantize(images), model.encode(images)
    return RoundTrip(ids, quantized.latents, model.decode(ids), model.decode_codes(quantized.codes))


@functools.partial(jax.jit, static_argnums=0)
def _decode(graphdef, state, ids):
    return nnx.merge(graphdef, state).decode(ids)


@pytest.fixture(scope="session")
def round_trip():
    """(tokenizer, images) -> RoundTrip, compiled."""
    return lambda model, images: _round_trip(*nnx.split(model), images)


@pytest.fixture(scope="session")
def decode():
    """(tokenizer, ids) -> what they say, compiled."""
    return lambda model, ids: np.asarray(_decode(*nnx.split(model), ids))
