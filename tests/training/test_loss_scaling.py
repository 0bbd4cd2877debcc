"""The scale of float16 losses: when it moves, and that a step which overflows changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax.training import loss_scaling


def test_scale_halves_and_doubles(monkeypatch):
    monkeypatch.setattr(loss_scaling, "PERIOD", 3)
    state = loss_scaling.create(np.dtype(np.float16))
    seen = []
    for finite in (True, True, False, True, True, True, True, False, False):
        state = loss_scaling.update(state, jnp.bool_(finite))
        seen.append((float(state.scale) / 2**15, int(state.good), int(state.skipped)))
    assert seen == [
        (1, 1, 0), (1, 2, 0), (0.5, 0, 1), (0.5, 1, 1), (0.5, 2, 1), (1, 0, 1), (1, 1, 1),
        (0.5, 0, 2), (0.25, 0, 3),
    ]  # fmt: skip


def test_scale_stays_within_bounds(monkeypatch):
    monkeypatch.setattr(loss_scaling, "PERIOD", 1)
    state = loss_scaling.create(np.dtype(np.float16))
    for _ in range(40):
        state = loss_scaling.update(state, jnp.bool_(True))
    assert float(state.scale) == 2.0**24
    # From there, MAX_SKIPS steps lead to 1, and not below.
    for _ in range(loss_scaling.MAX_SKIPS - 1):
        state = loss_scaling.update(state, jnp.bool_(False))
    assert float(state.scale) == 1.0
    assert float(loss_scaling.update(state, jnp.bool_(False)).scale) == 1.0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_other_dtypes_are_not_scaled(dtype):
    assert float(loss_scaling.create(jnp.dtype(dtype)).scale) == 1.0


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_one_bad_number_is_found(bad):
    gradients = {"a": jnp.ones((3, 2)), "b": jnp.ones(4).at[2].set(bad)}
    assert not loss_scaling.all_finite(gradients)
    assert loss_scaling.all_finite({"a": gradients["a"]})


@pytest.fixture(scope="module")
def half(make_model, make_trainer):
    """A trainer that computes in float16, and its state before any step, on the host."""
    model = make_model(dtype=jnp.float16)
    trainer = make_trainer(model, dtype="float16", optimizer=optax.adam(0.01))
    return trainer, jax.tree.map(np.array, trainer.state)


def begin(half, **changes):
    """The trainer at its beginning, with another loss scale."""
    trainer, state = half
    scale = state.loss_scale._replace(**{k: np.array(v) for k, v in changes.items()})
    trainer.state = jax.device_put(state._replace(loss_scale=scale))
    return trainer


def test_float16_learns_as_float32(half, make_model, make_batch, make_trainer):
    batch = make_batch()
    exact = make_trainer(make_model(), optimizer=optax.adam(0.01))
    figures = [exact.step(batch) for _ in range(5)]
    wanted, norms = (np.array([f[k] for f in figures]) for k in ("loss", "grad_norm"))
    trainer = begin(half, scale=np.float32(2.0**10))
    metrics = [trainer.step(batch) for _ in range(5)]
    assert not any(m["skipped"] for m in metrics)
    # Half precision has 11 bits, 5e-4; logits are sums of a few of these.
    np.testing.assert_allclose([float(m["loss"]) for m in metrics], wanted, rtol=5e-3)
    assert wanted[-1] < wanted[0] - 0.1
    np.testing.assert_allclose([float(m["grad_norm"]) for m in metrics], norms, rtol=2e-2)


def test_adapters_and_moments_stay_float32(half):
    trainer = begin(half)
    floats = [x for x in jax.tree.leaves(trainer.state) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert {str(x.dtype) for x in floats} == {"float32"}


def test_an_overflow_changes_nothing_but_the_scale(half, make_batch):
    trainer, start = begin(half, scale=np.float32(2.0**40)), half[1]
    metrics = trainer.step(make_batch())
    assert metrics["skipped"] == 1
    assert np.isfinite(metrics["loss"])
    assert not np.isfinite(metrics["grad_norm"])
    after = jax.device_get(trainer.state)
    for part in ("params", "opt_state"):
        for old, new in zip(
            jax.tree.leaves(getattr(start, part)),
            jax.tree.leaves(getattr(after, part)),
            strict=True,
        ):
            np.testing.assert_array_equal(old, new)
    assert after.loss_scale == (2.0**39, 0, 1)
    assert after.step == 1


def test_the_scale_finds_its_way_down(half, make_batch):
    trainer = begin(half, scale=np.float32(2.0**24))
    skipped = [float(trainer.step(make_batch())["skipped"]) for _ in range(25)]
    assert skipped[0] == 1
    assert skipped[-1] == 0
    count = int(sum(skipped))
    assert trainer.state.loss_scale.skipped == count
    assert trainer.state.loss_scale.scale == 2.0 ** (24 - count)
    assert all(np.isfinite(p).all() for p in trainer.state.params.values())
