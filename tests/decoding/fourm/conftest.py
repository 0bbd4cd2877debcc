"""A tiny 4M, and the slow way to its logits: one sample at a time, without a cache."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from medjax.decoding.fourm import Generator, Known, features_of
from medjax.models.fourm import DecoderInput, EncoderInput, FourM, FourMConfig, Modality

CONFIG = FourMConfig(
    width=16, encoder_depth=1, decoder_depth=2, num_heads=2, num_kv_heads=1, qk_norm=True,
    num_register_tokens=1,
    modalities=(
        Modality("report", "sequence", 17, max_length=8),
        Modality("tok", "image_tokens", 40, image_size=12, patch_size=4),
        Modality("scan", "image_tokens", 9, image_size=8, patch_size=4),
        Modality("photo", "patches", image_size=8, patch_size=4, channels=1),
        Modality("prior", "sequence_embeddings", max_length=3, channels=5),
        Modality("tok@16", "image_tokens", 12, image_size=16, patch_size=4),
    ),
    inputs=("report", "tok", "photo", "prior", "tok@16"),
    targets=("report", "tok", "scan", "tok@16"),
)  # fmt: skip


@pytest.fixture(scope="session")
def config() -> FourMConfig:
    return CONFIG


@pytest.fixture(scope="session")
def model() -> FourM:
    model = nnx.eval_shape(lambda: FourM(CONFIG, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        shape = variable.get_value().shape
        # What all places have in common is small, or they would get the same token.
        size = 0.5 if path[-1] == "kernel" or "embed_tokens" in path else 0.05
        value = size * rng.standard_normal(shape) + (path[-1] == "scale")
        variable.set_value(jnp.asarray(value, jnp.float32))
    return model


@pytest.fixture(scope="session")
def generator(model) -> Generator:
    return Generator(model)


@pytest.fixture(scope="session")
def features() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    shapes = {"photo": (2, 4, 16), "prior": (2, 3, 5)}
    return {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}


@pytest.fixture(scope="session")
def known() -> dict[str, Known]:
    """Of two samples: a report, some of an image, a photo, some of a prior."""
    tok = np.random.default_rng(2).integers(0, 40, (2, 9)).astype(np.int32)
    there = np.zeros((2, 9), bool)
    there[0, [1, 8]] = there[1, [0, 2, 3, 4]] = True
    prior = features_of(CONFIG.modality("prior"), 2)
    return {
        "report": Known(
            np.array([[5, 9, 2, 0], [11, 3, 16, 4]], np.int32),
            np.array([[True, True, True, False], [True] * 4]),
        ),
        "tok": Known(tok, there),
        "photo": features_of(CONFIG.modality("photo"), 2),
        "prior": prior._replace(valid=np.array([[True, True, False], [True, False, False]])),
    }


@functools.partial(jax.jit, static_argnums=(0, 5))
def _logits(graphdef, state, encoder, decoder, features, target: str):
    model = nnx.merge(graphdef, state)
    return model.logits(model.hidden(encoder, decoder, features), target)


def _row(slots, length: int) -> tuple[np.ndarray, ...]:
    """Fields of one sample's slots, [1, length], and which of them there are."""
    fields = np.zeros((len(slots[0]) if slots else 3, 1, length), np.int32)
    if slots:
        fields[:, 0, : len(slots)] = np.array(slots).T
    return (*fields, np.arange(length)[None] < len(slots))


@pytest.fixture(scope="session")
def plain(model, features):
    """A function (row, known, target, slots, features) -> logits [len(slots), V].

    known: modalities by name, whose row's valid tokens alone are read. slots: (position, id) of
    what the decoder reads.
    """

    def run(row: int, known: dict[str, Known], target: str, slots, features=features):
        read = []
        for name, (tokens, valid) in known.items():
            where = np.flatnonzero(valid[row])
            ranked = enumerate(where) if name == "report" else ((at, at) for at in where)
            read += [(tokens[row, at], place, CONFIG.index(name)) for place, at in ranked]
        image, index = CONFIG.modality(target).is_image, CONFIG.index(target)
        written = [(n, 0, p, index, 0 if image else i) for i, (p, n) in enumerate(slots)]
        mine = {name: values[row : row + 1] for name, values in features.items()}
        encoder, decoder = EncoderInput(*_row(read, 40)), DecoderInput(*_row(written, 16))
        logits = _logits(*nnx.split(model), encoder, decoder, mine, target)
        return np.asarray(logits)[0, : len(slots)]

    return run
