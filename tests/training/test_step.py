"""Loss and gradients: against NumPy, however a batch is cut up, and for the adapters alone."""

import functools

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from medjax.data.batching import Batch
from medjax.models import lora
from medjax.models.params import flatten
from medjax.training import optimizers
from medjax.training.objectives.paligemma import Answers

SGD = optax.sgd(1.0)


@functools.partial(jax.jit, static_argnums=0)
def _logits(graphdef, state, image, tokens, mask_ar):
    return nnx.merge(graphdef, state)(image, tokens, mask_ar)


def numpy_loss(model, batch, normalize: str, smoothing: float = 0.0) -> tuple[float, float]:
    """Loss and token accuracy in float64, from the logits."""
    inputs = (batch["image"], batch["tokens"][:, :-1], batch["mask_ar"][:, :-1])
    logits = np.asarray(_logits(*nnx.split(model), *inputs), np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    targets, supervised = batch["tokens"][:, 1:], batch["mask_loss"][:, 1:].astype(bool)
    hit = np.take_along_axis(log_probs, targets[..., None], -1)[..., 0]
    losses = -(1 - smoothing) * hit - smoothing * log_probs.mean(-1)
    accuracy = (logits.argmax(-1) == targets)[supervised].mean()
    if normalize == "token":
        return losses[supervised].mean(), accuracy
    rows = [row[kept].mean() for row, kept in zip(losses, supervised, strict=True) if kept.any()]
    return np.mean(rows), accuracy


@pytest.mark.parametrize(
    ("normalize", "smoothing"), [("example", 0.0), ("token", 0.0), ("example", 0.2)]
)
def test_loss_against_numpy(make_model, make_batch, make_trainer, normalize, smoothing):
    # A row without an answer counts neither above nor below the line.
    model, batch = make_model(), make_batch((1, 5, 0, 7, 2, 2, 6, 4))
    wanted, accuracy = numpy_loss(model, batch, normalize, smoothing)
    other, _ = numpy_loss(model, batch, "token" if normalize == "example" else "example", smoothing)
    assert abs(wanted - other) > 1e-3  # the two differ on ragged rows
    trainer = make_trainer(model, optimizer=SGD, objective=Answers(normalize, smoothing))
    metrics = trainer.step(batch)
    np.testing.assert_allclose(metrics["loss"], wanted, rtol=2e-6)
    np.testing.assert_allclose(metrics["accuracy"], accuracy, rtol=1e-6)
    assert metrics["tokens"] == 27


def test_gradient_norm_against_finite_differences(make_model, make_batch, make_trainer):
    model, batch = make_model(), make_batch()
    trainer = make_trainer(model, optimizer=SGD)
    before = jax.tree.map(np.asarray, trainer.state.params)
    metrics = trainer.step(batch)
    gradient = jax.tree.map(lambda a, b: a - np.asarray(b), before, trainer.state.params)
    norm = np.sqrt(sum(np.square(g.astype(np.float64)).sum() for g in gradient.values()))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-4)
    # Along its own gradient, the loss rises by the squared norm of it.
    size = 1e-2 / norm
    losses = []
    for sign in (1, -1):
        moved = {k: before[k] + sign * size * gradient[k] for k in before}
        losses.append(numpy_loss(trainer.model_with(moved), batch, "example")[0])
    slope = (losses[0] - losses[1]) / (2 * size)
    np.testing.assert_allclose(slope, norm**2, rtol=1e-2)


@pytest.mark.parametrize(("normalize", "cuts"), [("example", [4]), ("token", [4, 8])])
def test_accumulation_is_exact_on_ragged_lengths(
    make_model, make_batch, make_trainer, normalize, cuts
):
    """1 x 8, 4 x 2 and 8 x 1 are the same step.

    Sums of float32 numbers in another order differ by a few units in the last place (6e-8); SGD
    keeps them as they are, where Adam would blow up those of tiny gradients.
    """
    batch = make_batch((1, 5, 2, 7, 0, 3, 6, 1))
    results = {}
    for parts in (1, *cuts):
        trainer = make_trainer(
            make_model(), optimizer=SGD, accumulation=parts, objective=Answers(normalize)
        )
        metrics = trainer.step(batch)
        results[parts] = jax.device_get((metrics, trainer.state.params))
    before = flatten(nnx.state(make_model(), nnx.LoRAParam))
    metrics, params = results[1]
    for parts in cuts:
        for name, value in metrics.items():
            np.testing.assert_allclose(results[parts][0][name], value, rtol=1e-5, err_msg=name)
        for name, value in results[parts][1].items():
            moved = np.abs(params[name] - before[name]).max()
            assert moved > 1e-4
            np.testing.assert_allclose(value, params[name], rtol=0, atol=1e-5 * moved + 1e-7)


def test_mean_of_means_would_be_another_step(make_model, make_batch):
    # The test above would be empty if a plain mean over parts gave the same.
    model, batch = make_model(), make_batch((1, 5, 2, 7, 0, 3, 6, 1))
    parts = [{k: v[i::4] for k, v in batch.items()} for i in range(4)]
    mean = np.mean([numpy_loss(model, part, "token")[0] for part in parts])
    assert abs(mean - numpy_loss(model, batch, "token")[0]) > 1e-3


def test_adam_with_accumulation_learns_alike(make_model, make_batch, make_trainer):
    batch, losses = make_batch(), {}
    for parts in (1, 4):
        trainer = make_trainer(make_model(), accumulation=parts)
        losses[parts] = [float(trainer.step(batch)["loss"]) for _ in range(6)]
    np.testing.assert_allclose(losses[1], losses[4], rtol=1e-4)
    assert losses[1][-1] < losses[1][0] - 0.1


def test_optimizer_holds_exactly_the_adapters(make_model, make_trainer):
    trainer = make_trainer(make_model(targets=lora.TARGETS))
    targets = 7
    names = set(trainer.state.params)
    assert len(names) == 2 * targets
    assert all(name.endswith(("/lora_a", "/lora_b")) for name in names)
    adam = next(
        s for s in jax.tree.leaves(trainer.state.opt_state, is_leaf=_is_adam) if _is_adam(s)
    )
    assert set(adam.mu) == set(adam.nu) == names
    shapes = {name: value.shape for name, value in trainer.state.params.items()}
    assert {name: value.shape for name, value in adam.mu.items()} == shapes
    moments = [x for x in jax.tree.leaves(trainer.state.opt_state) if x.ndim]
    assert sum(x.size for x in moments) == 2 * sum(p.size for p in trainer.state.params.values())


def _is_adam(state) -> bool:
    return isinstance(state, optax.ScaleByAdamState)


def test_frozen_weights_do_not_move(make_model, make_batch, make_trainer):
    model = make_model()
    before = {k: np.asarray(v) for k, v in flatten(model).items()}
    trainer = make_trainer(model)
    for _ in range(3):
        trainer.step(make_batch())
    after = flatten(trainer.model_with())
    assert set(after) == set(before)
    for name, value in before.items():
        same = np.array_equal(value, after[name])
        assert same != name.endswith(("/lora_a", "/lora_b")), name


def test_without_adapters_everything_trains(make_model, make_batch, make_trainer):
    model = make_model(rank=0)
    before = {k: np.asarray(v) for k, v in flatten(model).items()}
    trainer = make_trainer(model)
    assert set(trainer.state.params) == set(before)
    trainer.step(make_batch())
    after = flatten(trainer.model_with())
    # A key's bias shifts all scores of a query alike, so that its gradient is only rounding.
    still = [name for name, value in before.items() if np.array_equal(value, after[name])]
    assert [name for name in still if "k_proj/bias" not in name] == []


def test_a_multiplier_of_zero_leaves_the_optimizer(make_model, make_batch, make_trainer):
    multipliers = (("self_attn", 0.0), ("mlp", 1.0))
    trainer = make_trainer(
        make_model(), frozen=lambda name: optimizers.multiplier(name, multipliers) == 0
    )
    assert trainer.state.params
    assert all("/mlp/" in name for name in trainer.state.params)
    before = {k: np.asarray(v) for k, v in flatten(trainer.model_with()).items()}
    trainer.step(make_batch())
    after = flatten(trainer.model_with())
    changed = {name for name, value in before.items() if not np.array_equal(value, after[name])}
    assert changed == set(trainer.state.params)


def test_dropout_is_a_function_of_seed_and_step(make_model, make_batch, make_trainer):
    batch = make_batch()

    def losses(seed, accumulation=1, steps=3):
        still = optax.sgd(0.0)  # so that losses differ by dropout alone
        model = make_model(dropout=0.4)
        trainer = make_trainer(model, seed=seed, optimizer=still, accumulation=accumulation)
        return [float(trainer.step(batch)["loss"]) for _ in range(steps)]

    first = losses(seed=0)
    assert losses(seed=0) == first
    assert len(set(first)) == 3
    assert not set(losses(seed=1)) & set(first)
    # Parts of a batch draw their own: with one key for all, equal rows would be dropped alike.
    assert losses(seed=0, accumulation=2) != first


def test_validation_has_no_dropout(make_model, make_batch, make_trainer):
    batch = make_batch()
    trainer = make_trainer(make_model(dropout=0.4))
    found = [trainer.evaluate([as_batch(batch)])["loss"] for _ in range(2)]
    wanted, _ = numpy_loss(make_model(dropout=0.4), batch, "example")
    np.testing.assert_allclose(found, wanted, rtol=2e-6)


def as_batch(arrays):
    rows = len(arrays["tokens"])
    return Batch(arrays, ("",) * rows, np.zeros(rows, bool), np.ones(rows, bool))


def test_validation_weighs_examples_alike(make_model, make_batch, make_trainer):
    whole = make_batch((1, 5, 2, 7, 3, 3, 6, 1))
    parts = [as_batch({k: v[i : i + 4] for k, v in whole.items()}) for i in (0, 4)]
    # The last batch of an evaluation may be filled up with rows that have no loss.
    parts[1].arrays["mask_loss"] = parts[1].arrays["mask_loss"] * [[1], [1], [0], [0]]
    kept = {k: v[:6] for k, v in whole.items()}
    trainer = make_trainer(make_model())
    found = trainer.evaluate(parts)
    wanted, accuracy = numpy_loss(make_model(), kept, "example")
    np.testing.assert_allclose((found["loss"], found["accuracy"]), (wanted, accuracy), rtol=2e-6)


def test_the_average_follows_the_parameters(make_model, make_batch, make_trainer):
    decay, trainer = 0.5, make_trainer(make_model(), optimizer=SGD, average_decay=0.5)
    wanted = {name: np.asarray(x) for name, x in trainer.state.params.items()}
    for step in range(8):
        trainer.step(make_batch(seed=step))
        kept = min(decay, (1 + step) / (10 + step))
        for name, x in trainer.state.params.items():
            wanted[name] = kept * wanted[name] + (1 - kept) * np.asarray(x)
    used = flatten(trainer.model_with())
    for name, x in wanted.items():
        assert np.abs(x - trainer.state.params[name]).max() > 1e-4
        np.testing.assert_allclose(trainer.state.average[name], x, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(used[name], trainer.state.average[name])
    # Validation is of what is used.
    loss = trainer.evaluate([as_batch(make_batch())])["loss"]
    np.testing.assert_allclose(
        loss, numpy_loss(trainer.model_with(), make_batch(), "example")[0], rtol=2e-6
    )
