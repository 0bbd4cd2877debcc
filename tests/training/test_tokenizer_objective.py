"""Training image tokenizers: the codebook as state, parts, devices, repetition, learning."""

import functools
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from medjax.data.datasets.mni152_vqa.volume import load_template
from medjax.errors import UserError
from medjax.models.tokenizers import (
    ConvConfig,
    FSQConfig,
    ImageTokenizer,
    ImageTokenizerConfig,
    ViTConfig,
    VQConfig,
    metrics,
)
from medjax.training import loss_scaling
from medjax.training.objectives.tokenizer import Reconstruction
from medjax.training.step import TrainState, make_train_step, split

SCRIPT = pathlib.Path(__file__).with_name("tokenizer_devices.py")
NETWORK = ViTConfig(8, 1, 2, 2.0)
QUANTIZER = VQConfig(12, 3, decay=0.8)


def tiny(quantizer=QUANTIZER, kind="image") -> ImageTokenizerConfig:
    return ImageTokenizerConfig(kind, 8, 4, 3, NETWORK, NETWORK, quantizer)


@functools.cache
def parts(config, dtype=jnp.float32):
    """A tokenizer with random parameters, taken apart; nothing was counted yet."""
    model = nnx.eval_shape(lambda: ImageTokenizer(config, dtype=dtype, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        scale = {"scale": 1.0, "counts": 0.0}.get(path[-1], rng.standard_normal)
        shape = variable.get_value().shape
        value = 0.25 * scale(shape) if callable(scale) else np.full(shape, scale)
        variable.set_value(jnp.asarray(value, jnp.float32))
    return split(model)


def images(rows: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (rows, 8, 8, 3)).astype(np.float32)


def start(taken, optimizer, dtype=jnp.float32) -> TrainState:
    params, scale = taken.params, loss_scaling.create(dtype)
    return TrainState(jnp.int32(0), params, optimizer.init(params), scale, taken.carried, {})


def make_step(taken, config, optimizer, *, seed, reconstruction="l2", **kwargs):
    """(state, images) -> (state, figures)."""
    objective = Reconstruction(config, "tok", reconstruction)
    step = make_train_step(taken.dropping, objective, optimizer, seed=seed, **kwargs)
    return jax.jit(lambda state, images: step(state, taken.rest, (), {"tok": images}))


def merge(taken, params, codebook):
    return taken.still.merge(params | codebook, taken.rest)


def steps(config, batches, *, dtype=jnp.float32, optimizer=None, **kwargs):
    """The states and figures of steps on batches."""
    taken = parts(config, dtype)
    optimizer = optimizer or optax.sgd(0.1)
    state = start(taken, optimizer, dtype)
    step = make_step(taken, config, optimizer, seed=3, **kwargs)
    found = []
    for batch in batches:
        state, measured = step(state, batch)
        found.append((state, measured))
    return found


@pytest.fixture(scope="module")
def plain():
    return steps(tiny(), [images(seed=i) for i in range(3)])


def arrays(state) -> dict[str, np.ndarray]:
    return {name: np.asarray(x) for name, x in (state.params | state.carried).items()}


def assert_alike(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_repeated_it_gives_the_same_bits(plain):
    again = steps(tiny(), [images(seed=i) for i in range(3)])
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_batch_in_parts_is_the_batch(plain):
    cut = steps(tiny(), [images(seed=i) for i in range(3)], accumulation=4)
    for (state, measured), (other, also) in zip(plain, cut, strict=True):
        wanted, found = arrays(state), arrays(other)
        for name, array in wanted.items():
            np.testing.assert_allclose(found[name], array, atol=2e-6, err_msg=name)
        assert_alike(also, measured)
    assert float(plain[0][1]["restarted"]) > 0


def test_the_codebook_is_a_moving_average_of_the_batchs_latents():
    config = tiny(VQConfig(12, 3, "l2", decay=0.8, restart_below=0.0))
    (first, _), (second, measured) = steps(config, [images(), images(seed=1)])
    model = merge(parts(config), first.params, first.carried)
    found = model.quantize(images(seed=1))
    latents, ids = np.asarray(found.latents).reshape(-1, 3), np.asarray(found.ids).ravel()
    members = np.eye(12)[ids]
    before, after = arrays(first), arrays(second)
    counts = 0.8 * before["quantizer/counts"] + 0.2 * members.sum(0)
    sums = 0.8 * before["quantizer/counts"][:, None] * before["quantizer/codes"]
    sums = sums + 0.2 * members.T @ latents
    np.testing.assert_allclose(after["quantizer/counts"], counts, rtol=1e-5)
    used = counts > 0
    assert used.sum() > 2
    wanted = sums[used] / counts[used, None]
    np.testing.assert_allclose(after["quantizer/codes"][used], wanted, rtol=1e-4, atol=1e-5)
    assert measured["restarted"] == 0
    np.testing.assert_allclose(measured["use"], (members.sum(0) > 0).mean(), rtol=1e-6)


def test_dead_codes_become_latents_of_the_batch(plain):
    # Nothing was counted before the first step: a code lives if the step uses it enough.
    taken = parts(tiny())
    model = merge(taken, taken.params, taken.carried)
    found = model.quantize(images())
    latents = np.asarray(found.latents).reshape(-1, 3)
    counts = np.bincount(np.asarray(found.ids).ravel(), minlength=12)
    dead = 0.2 * counts < 0.05 * 32 / 12
    state, measured = plain[0]
    assert measured["restarted"] == dead.sum() > 0
    codes = arrays(state)["quantizer/codes"]
    distance = np.abs(codes[:, None] - latents).max(-1)
    assert (distance.min(1)[dead] < 1e-6).all()
    # The others are where their tokens are, and nowhere else.
    sums = np.stack([latents[np.asarray(found.ids).ravel() == i].sum(0) for i in range(12)])
    unit = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-6)
    np.testing.assert_allclose(codes[~dead], unit[~dead], atol=1e-5)
    # No latent twice.
    assert len(np.unique(distance.argmin(1)[dead])) == dead.sum()


def test_the_loss_is_reconstruction_and_commitment():
    config = tiny(VQConfig(12, 3, "l2", commitment=0.3))
    ((_, measured),) = steps(config, [images()])
    taken = parts(config)
    model = merge(taken, taken.params, taken.carried)
    found = model.quantize(images())
    codes = np.asarray(found.codes)
    commitment = 0.3 * ((np.asarray(found.latents) - codes) ** 2).mean()
    error = np.mean((np.asarray(model.decode(found.ids)) - images()) ** 2)
    np.testing.assert_allclose(measured["commitment"], commitment, rtol=1e-5)
    np.testing.assert_allclose(measured["reconstruction"], error, rtol=1e-5)
    np.testing.assert_allclose(measured["loss"], error + commitment, rtol=1e-5)


def test_gradients_reach_the_encoder_through_the_codes():
    config = tiny(VQConfig(12, 3, commitment=0.0))
    params, codebook = parts(config).params, parts(config).carried
    ((state, _),) = steps(config, [images()])
    moved = {name for name in params if np.ptp(state.params[name] - params[name]) > 0}
    assert "encoder/patch_embedding/kernel" in moved
    assert "decoder/to_pixels/kernel" in moved
    assert set(codebook) == set(state.carried)


def test_without_a_codebook_parts_are_the_whole_too():
    config, masks = tiny(FSQConfig((3, 4)), "mask"), discs(8)[:, 4:12, 4:12]
    ((state, whole),) = steps(config, [masks], reconstruction="cross_entropy")
    ((_, parts),) = steps(config, [masks], reconstruction="cross_entropy", accumulation=2)
    assert_alike(parts, whole)
    assert state.carried == {}
    assert whole["commitment"] == whole["restarted"] == 0


def discs(count: int, seed: int = 0) -> np.ndarray:
    """Masks of a disc of class 1 and, over it, one of class 2."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:16, :16]
    masks = np.zeros((count, 16, 16), np.int32)
    for mask in masks:
        for label in (1, 2):
            centre, radius = rng.uniform(3, 13, 2), rng.uniform(2.5, 5)
            mask[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2] = label
    return masks


def test_it_learns_masks_that_it_never_saw():
    network = ConvConfig((8, 16))
    config = ImageTokenizerConfig("mask", 16, 4, 3, network, network, FSQConfig((5, 5, 5)))
    taken = split(ImageTokenizer(config, rngs=nnx.Rngs(0)))
    optimizer = optax.adam(5e-3)
    step = make_step(taken, config, optimizer, seed=0, reconstruction="cross_entropy")
    state, train, held_out = start(taken, optimizer), discs(64), discs(16, seed=1)

    @jax.jit
    def dice(params):
        tokenizer = merge(taken, params, {})
        labels = tokenizer.decode(tokenizer.encode(held_out)).argmax(-1)
        return jnp.nanmean(metrics.dice(labels, held_out, 3), axis=0)

    before = dice(taken.params)
    for i in range(60):
        state, _ = step(state, train[(np.arange(16) + 16 * i) % 64])
    after = dice(state.params)
    print(f"Dice {before} -> {after}")
    assert (np.asarray(before) < 0.55).all()
    assert (np.asarray(after) > [0.9, 0.6, 0.75]).all()


def test_a_step_that_overflows_changes_the_loss_scale_alone():
    config = tiny()
    # The first steps find the scale.
    batches = [images()] * 4 + [np.full((8, 8, 8, 3), 1e38, np.float32)] + [images()] * 2
    found = steps(config, batches, dtype=jnp.float16, skip_overflows=True)[3:6]
    assert [float(m["skipped"]) for _, m in found] == [0, 1, 0]
    (first, _), (second, _), (third, _) = found
    for name, array in arrays(first).items():
        assert np.isfinite(array).all()
        np.testing.assert_array_equal(array, arrays(second)[name], err_msg=name)
    assert second.loss_scale.scale == first.loss_scale.scale / 2
    assert np.ptp(arrays(third)["quantizer/codes"] - arrays(second)["quantizer/codes"]) > 0


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(UserError, match="batch_size 8 is no multiple of accumulation 3"):
        steps(tiny(), [images()], accumulation=3)
    with pytest.raises(UserError, match="reconstruction loss 'cross_entropy'"):
        steps(tiny(), [images()], reconstruction="cross_entropy")


def test_on_four_devices_it_is_the_step_of_one(tmp_path):
    output = tmp_path / "results.npz"
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    environment = os.environ | {"XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, SCRIPT, output], env=environment, check=True, timeout=300)
    with np.load(output) as found:
        results = dict(found)
    names = [name.removeprefix("one/") for name in results if name.startswith("one/")]
    assert "quantizer/codes" in names
    assert results["one/restarted"].min() > 0
    assert results["four/devices"] == 4
    for name in names:
        found, wanted = results[f"four/{name}"], results[f"one/{name}"]
        np.testing.assert_allclose(found, wanted, atol=3e-6, rtol=1e-5, err_msg=name)


def slices() -> np.ndarray:
    """Every second axial T1 slice of the template, pixels of 6 mm, [-1, 1]."""
    volume = load_template().t1[4:196, 20:212, 36:132:2].astype(np.float32)
    blocks = volume.reshape(32, 6, 32, 6, -1).mean((1, 3))
    return blocks.transpose(2, 0, 1)[..., None] / 127.5 - 1


def test_it_learns_to_show_slices_that_it_never_saw():
    seen = np.arange(48) % 6 != 3
    data = slices()
    train, held_out = data[seen], data[~seen]
    network = ViTConfig(48, 2, 4)
    config = ImageTokenizerConfig(
        "image", 32, 4, 1, network, network, VQConfig(64, 8, decay=0.9),
        (float(train.mean()),), (float(train.std()),),
    )  # fmt: skip
    taken = split(ImageTokenizer(config, rngs=nnx.Rngs(0)))
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, 150))
    step = make_step(taken, config, optimizer, seed=0)
    state = start(taken, optimizer)
    rng = np.random.default_rng(0)

    @jax.jit
    def measured(params, codebook):
        tokenizer = merge(taken, params, codebook)
        ids = tokenizer.encode(held_out)
        counts = metrics.code_counts(tokenizer.encode(train), config.vocab_size)
        return metrics.psnr(tokenizer.decode(ids), held_out, 2.0).mean(), counts

    before, _ = measured(taken.params, taken.carried)
    for _ in range(150):
        state, _ = step(state, train[rng.choice(len(train), 8, replace=False)])
    after, counts = measured(state.params, state.carried)
    mean_image = np.broadcast_to(train.mean(0), held_out.shape)
    baseline = metrics.psnr(mean_image, held_out, 2.0).mean()
    print(f"PSNR {before:.2f} -> {after:.2f} dB, mean image {baseline:.2f} dB, "
          f"use {metrics.codebook_use(counts):.2f}, "
          f"perplexity {metrics.perplexity(counts):.1f}")  # fmt: skip
    assert after > baseline + 2.5
    assert metrics.codebook_use(counts) > 0.5
