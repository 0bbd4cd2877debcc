"""Training the mask codec: its loss, gradients and codebook against a few lines of NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from medjax.models.mask_codec import MaskCodec
from medjax.models.params import flatten
from medjax.models.tokenizers import VQConfig
from medjax.training import loss_scaling
from medjax.training.objectives.mask_codec import QUANTIZER, MaskReconstruction, in_training
from medjax.training.step import TrainState, make_train_step, split

RATE = 0.5


@pytest.fixture(scope="module")
def masks() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 2, (3, 8, 8)).repeat(8, 1).repeat(8, 2).astype(np.float32)


@pytest.fixture(scope="module")
def before(masks):
    """What the codec computes before the step, as NumPy arrays."""
    codec = MaskCodec(rngs=nnx.Rngs(0))
    latents = np.asarray(codec.latents(masks))
    # Codes that are some of the latents, and some that are far off.
    codebook = np.asarray(codec.codebook.get_value()) + 9
    codebook[:20] = latents.reshape(-1, 512)[1:41:2] * 1.1
    codec.codebook.set_value(jnp.asarray(codebook))
    distances = ((latents[..., None, :] - codebook) ** 2).sum(-1)
    ids = distances.argmin(-1)
    return {"codec": codec, "latents": latents, "codebook": codebook, "ids": ids}


@pytest.fixture(scope="module")
def step(masks, before):
    """Figures, gradients by name and state of one step of plain gradient descent."""
    codec = in_training(nnx.clone(before["codec"]), counts=0.375)
    taken = split(codec)
    optimizer = optax.sgd(RATE)
    train_step = make_train_step(taken.dropping, MaskReconstruction("tok"), optimizer, seed=0)
    scale = loss_scaling.create(jnp.float32)
    start = TrainState(
        jnp.int32(0), taken.params, optimizer.init(taken.params), scale, taken.carried, {}
    )
    state, figures = jax.jit(train_step)(start, taken.rest, (), {"tok": masks})
    gradients = {
        name: (np.asarray(taken.params[name]) - np.asarray(state.params[name])) / RATE
        for name in taken.params
    }
    return figures, gradients, state


def test_the_loss(step, before, masks):
    figures, _, _ = step
    codes = before["codebook"][before["ids"]]
    decoded = np.asarray(before["codec"].decode(before["ids"].reshape(3, 16)))
    reconstruction = ((decoded - (2 * masks - 1)) ** 2).mean()
    commitment = 0.25 * ((before["latents"] - codes) ** 2).mean()
    assert commitment > 1e-4
    np.testing.assert_allclose(figures["reconstruction"], reconstruction, rtol=1e-5)
    np.testing.assert_allclose(figures["commitment"], commitment, rtol=1e-5)
    np.testing.assert_allclose(figures["loss"], reconstruction + commitment, rtol=1e-5)
    np.testing.assert_allclose(figures["use"], len(np.unique(before["ids"])) / 128, rtol=1e-6)


def test_the_decoders_gradient(step, before, masks):
    _, gradients, _ = step
    decoded = np.asarray(before["codec"].decode(before["ids"].reshape(3, 16)))
    wanted = 2 * (decoded - (2 * masks - 1)).mean()
    np.testing.assert_allclose(gradients["to_pixels/bias"], [wanted], rtol=1e-3, atol=1e-5)


def test_the_gradient_goes_through_the_codes_to_the_encoder(step, before, masks):
    _, gradients, _ = step
    codes = before["codebook"][before["ids"]]
    # The last bias of the encoder moves all latents alike: as moving all codes changes the
    # reconstruction, and as moving away from the codes changes the commitment.
    direction = np.random.default_rng(1).standard_normal(512).astype(np.float32)
    direction /= np.linalg.norm(direction)

    def reconstruction(step):
        decoded = np.asarray(before["codec"].decode_codes(codes + step * direction), np.float64)
        return ((decoded - (2 * masks - 1)) ** 2).mean()

    slope = (reconstruction(0.02) - reconstruction(-0.02)) / 0.04
    pull = 2 * 0.25 * ((before["latents"] - codes) @ direction).sum() / before["latents"].size
    found = gradients["to_code/bias"] @ direction
    assert abs(slope) > 1e-3
    np.testing.assert_allclose(found, slope + pull, rtol=0.02, atol=1e-4)


def test_the_codebook_follows_the_latents(step, before):
    figures, gradients, state = step
    assert "codebook" not in gradients
    used, members = np.unique(before["ids"]), np.eye(128)[before["ids"].ravel()]
    assert len(used) > 3
    counts = 0.99 * 0.375 + 0.01 * members.sum(0)
    sums = 0.99 * 0.375 * before["codebook"]
    sums = sums + 0.01 * members.T @ before["latents"].reshape(-1, 512)
    wanted = sums / counts[:, None]
    found = np.asarray(state.carried["codebook"])
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert np.abs(wanted - before["codebook"])[used].max() > 1e-3
    np.testing.assert_allclose(state.carried["counts"], counts, rtol=1e-5)
    assert figures["restarted"] == 0


def test_nothing_counted_yet_starts_anew(masks, before):
    taken = split(in_training(nnx.clone(before["codec"])))
    objective = MaskReconstruction("tok")
    rows, shared = objective.prepare((), {"tok": masks}, jax.random.key(0), 1, "")
    model = taken.still.merge(taken.params | taken.carried, taken.rest)
    after, told = objective.carry(taken.carried, objective.sums(model, rows, shared, 0))
    members = np.bincount(before["ids"].ravel(), minlength=128)
    dead = 0.01 * members < 0.05 * 48 / 128
    assert told["restarted"] == dead.sum() > 100
    latents = before["latents"].reshape(-1, 512)
    codes = np.asarray(after["codebook"])[dead]
    distance = np.linalg.norm(codes[:, None] - latents, axis=-1).min(1)
    assert distance.max() < 1e-4 * np.linalg.norm(latents, axis=-1).max()


def test_in_training_the_codebook_is_no_parameter():
    codec = MaskCodec(rngs=nnx.Rngs(0))
    codes = np.arange(32).reshape(2, 16)
    wanted, names = codec.decode(codes), set(flatten(codec))
    codec = in_training(codec, 1.0)
    assert set(flatten(codec)) == names - {"codebook"}
    np.testing.assert_array_equal(codec.decode(codes), wanted)
    assert VQConfig(128, 512, "l2", decay=0.99, commitment=0.25) == QUANTIZER
