"""One step of training, as a pure function on pytrees."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from medjax.models import lora
from medjax.models.paligemma import PaliGemma
from medjax.models.params import flatten, trainable_filter
from medjax.training import loss_scaling
from medjax.training.loss_scaling import LossScale

Batch = dict[str, Array]


class TrainState(NamedTuple):
    """All that a step changes.

    Attributes:
      step: int32, steps done, skipped ones included.
      params: {name: array}, the parameters that train.
      opt_state: the optimizer's.
      loss_scale: see `loss_scaling`.
    """

    step: Int[Array, ""]
    params: dict[str, Array]
    opt_state: Any
    loss_scale: LossScale


class Metrics(NamedTuple):
    """Sums and facts of one step; all float32 scalars.

    Attributes:
      loss: mean over what `normalize` says.
      accuracy: share of supervised tokens that were the most probable one.
      tokens: number of supervised tokens.
      grad_norm: global norm of the gradients, before clipping.
      skipped: 1 if the step was skipped because a float16 gradient overflowed.
    """

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]
    tokens: Float[Array, ""]
    grad_norm: Float[Array, ""]
    skipped: Float[Array, ""]


class LossSums(NamedTuple):
    """A loss before its division: parts of a batch add up exactly."""

    loss: Float[Array, ""]
    divisor: Float[Array, ""]
    tokens: Float[Array, ""]
    correct: Float[Array, ""]


def loss_sums(model: PaliGemma, batch: Batch, normalize: str, label_smoothing: float) -> LossSums:
    """Sum of losses and what to divide it by.

    Args:
      batch: image [B,H,W,3]; tokens, mask_ar, mask_loss [B,T].
      normalize: "example": each example's mean over its own supervised tokens, summed (big_vision);
        "token": the sum over tokens.
    """
    scores = model.score(
        batch["image"], batch["tokens"], batch["mask_ar"], batch["mask_loss"],
        label_smoothing=label_smoothing,
    )  # fmt: skip
    supervised = (batch["mask_loss"][:, 1:] != 0).astype(jnp.float32)
    per_example = supervised.sum(axis=1)
    tokens = per_example.sum()
    if normalize == "example":
        loss = jnp.sum(scores.loss.sum(axis=1) / jnp.maximum(per_example, 1.0))
        divisor = jnp.sum(per_example > 0).astype(jnp.float32)
    else:
        loss, divisor = scores.loss.sum(), tokens
    correct = jnp.sum(supervised * (scores.argmax == batch["tokens"][:, 1:]))
    return LossSums(loss, divisor, tokens, correct)


class SplitModel(NamedTuple):
    """The structure of a model whose arrays are held apart.

    Attributes:
      graphdef: the structure; with dropout, or without.
      names: {name: path} of the parameters that train.
    """

    graphdef: nnx.GraphDef
    names: dict[str, tuple]

    def merge(self, params: dict[str, Array], rest: nnx.State) -> PaliGemma:
        """The model with these parameters."""
        flat = [(self.names[name], value) for name, value in params.items()]
        return nnx.merge(self.graphdef, nnx.from_flat_state(flat), rest)


def split(model: nnx.Module, frozen: Callable[[str], bool] = lambda name: False):
    """Takes a model apart for training, once per run.

    What trains is the adapters if there are any, else all parameters; of these, those whose name is
    not `frozen`.

    Returns:
      The structure without dropout, the same with dropout, the parameters that train by name, and
      the rest of the model's state, DropoutKeys included.
    """
    wanted = trainable_filter(model)

    def trains(path, variable):
        return isinstance(variable, wanted) and not frozen("/".join(map(str, path)))

    model.train()
    dropping, *states = nnx.split(model, trains, ...)
    state, rest = states
    model.eval()
    still = nnx.graphdef(model)
    names = {"/".join(map(str, path)): path for path, _ in nnx.to_flat_state(state)}
    return SplitModel(still, names), SplitModel(dropping, names), flatten(state), rest


def accumulate(function: Callable, batch: Batch, parts: int):
    """Sums `function(part, index)` over equal parts of a batch, one after another.

    Rows are dealt out in turn, so that each device's rows stay on it.
    """
    if parts == 1:
        return function(batch, 0)
    dealt = jax.tree.map(
        lambda x: x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1), batch
    )
    shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], dealt), 0)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def step(total, inputs):
        return jax.tree.map(jnp.add, total, function(*inputs)), None

    return jax.lax.scan(step, zeros, (dealt, jnp.arange(parts)))[0]


def make_train_step(
    model: SplitModel,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    normalize: str = "example",
    label_smoothing: float = 0.0,
    accumulation: int = 1,
    skip_overflows: bool = False,
) -> Callable[[TrainState, nnx.State, Batch], tuple[TrainState, Metrics]]:
    """(state, rest of the model, batch) -> (state, metrics), to be jitted by the caller.

    Dropout is a function of (seed, step, part of the batch). With `skip_overflows` (float16) the
    loss scale moves, and a step with gradients that are not finite changes nothing else.
    """

    def train_step(state: TrainState, rest: nnx.State, batch: Batch):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        keys, frozen = rest.split(lora.DropoutKey, ...)

        def sums(params, part, index):
            drawn = lora.set_dropout_keys(keys, jax.random.fold_in(key, index))
            merged = model.merge(params, nnx.merge_state(frozen, drawn))
            result = loss_sums(merged, part, normalize, label_smoothing)
            return result.loss * state.loss_scale.scale, result

        def gradient(part, index):
            (_, result), grads = jax.value_and_grad(sums, has_aux=True)(state.params, part, index)
            return result, grads

        # Summed over all parts, divided once: averages of averages weigh ragged parts wrong.
        total, grads = accumulate(gradient, batch, accumulation)
        divisor = jnp.maximum(total.divisor, 1.0)
        scaled = divisor * state.loss_scale.scale
        grads = jax.tree.map(lambda g: g / scaled.astype(g.dtype), grads)
        grad_norm = optax.global_norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        loss_scale, skipped = state.loss_scale, jnp.float32(0.0)
        if skip_overflows:
            finite = loss_scaling.all_finite(grads)
            params, opt_state = jax.tree.map(
                lambda new, old: jnp.where(finite, new, old),
                (params, opt_state),
                (state.params, state.opt_state),
            )
            loss_scale = loss_scaling.update(loss_scale, finite)
            skipped = (~finite).astype(jnp.float32)
        metrics = Metrics(
            loss=total.loss / divisor,
            accuracy=total.correct / jnp.maximum(total.tokens, 1.0),
            tokens=total.tokens,
            grad_norm=grad_norm,
            skipped=skipped,
        )
        return TrainState(state.step + 1, params, opt_state, loss_scale), metrics

    return train_step


def make_eval_step(
    model: SplitModel, *, normalize: str = "example", label_smoothing: float = 0.0
) -> Callable[[dict[str, Array], nnx.State, Batch], LossSums]:
    """(params, rest of the model, batch) -> sums, without dropout; to be jitted by the caller."""

    def eval_step(params, rest, batch):
        return loss_sums(model.merge(params, rest), batch, normalize, label_smoothing)

    return eval_step
