"""One step of training, as a pure function on pytrees."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Int

from medjax.errors import UserError
from medjax.models import lora
from medjax.models.params import Carried, flatten, trainable_filter
from medjax.training import loss_scaling
from medjax.training.loss_scaling import LossScale
from medjax.training.objective import Batch, Figures, Objective, Sums


class TrainState(NamedTuple):
    """All that a step changes.

    Attributes:
      step: int32, steps done, skipped ones included.
      params: {name: array}, the parameters that train.
      opt_state: the optimizer's.
      loss_scale: see `loss_scaling`.
      carried: {name: array}, what changes without a gradient; empty for most models.
      average: {name: array}, the parameters' moving average; empty without one.
    """

    step: Int[Array, ""]
    params: dict[str, Array]
    opt_state: Any
    loss_scale: LossScale
    carried: dict[str, Array]
    average: dict[str, Array]


class SplitModel(NamedTuple):
    """The structure of a model whose arrays are held apart.

    Attributes:
      graphdef: the structure; with dropout, or without.
      names: {name: path} of the variables that a step changes.
    """

    graphdef: nnx.GraphDef
    names: dict[str, tuple]

    def merge(self, named: dict[str, Array], rest: nnx.State) -> Any:
        """The model with these variables."""
        flat = [(self.names[name], value) for name, value in named.items()]
        return nnx.merge(self.graphdef, nnx.from_flat_state(flat), rest)


class Split(NamedTuple):
    """A model taken apart for training.

    Attributes:
      still: its structure without dropout. dropping: the same with dropout.
      params: {name: array}, what trains. carried: {name: array}, see `params.Carried`.
      rest: all other state, dropout keys included.
    """

    still: SplitModel
    dropping: SplitModel
    params: dict[str, Array]
    carried: dict[str, Array]
    rest: nnx.State


def split(model: nnx.Module, frozen: Callable[[str], bool] = lambda name: False) -> Split:
    """Takes a model apart for training, once per run.

    What trains is the adapters if there are any, else all parameters; of these, those whose name is
    not `frozen`.
    """
    wanted = trainable_filter(model)

    def trains(path, variable):
        return isinstance(variable, wanted) and not frozen("/".join(map(str, path)))

    model.train()
    dropping, *states = nnx.split(model, trains, Carried, ...)
    params, carried, rest = states
    model.eval()
    still = nnx.graphdef(model)
    paths = [path for state in (params, carried) for path, _ in nnx.to_flat_state(state)]
    names = {"/".join(map(str, path)): path for path in paths}
    return Split(
        SplitModel(still, names), SplitModel(dropping, names), flatten(params), flatten(carried),
        rest,
    )  # fmt: skip


def accumulate(function: Callable, batch: Batch, parts: int):
    """Sums `function(part, index)` over equal parts of a batch, one after another.

    Rows are dealt out in turn, so that each device's rows stay on it.

    Raises:
      UserError: the batch does not divide.
    """
    rows = len(jax.tree.leaves(batch)[0])
    if rows % parts:
        raise UserError(f"batch_size {rows} is no multiple of accumulation {parts}")
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


def batch_key(seed: int, number: Any) -> Array:
    """The key of what an objective draws for a batch; dropout's are others."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 0x0B7EC7), number)


def make_train_step(
    model: SplitModel,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    accumulation: int = 1,
    skip_overflows: bool = False,
    average_decay: float = 0.0,
) -> Callable[..., tuple[TrainState, Figures]]:
    """(state, rest of the model, objective's arrays, batch, source) -> (state, figures).

    To be jitted by the caller, with `source` static. Dropout and what the objective draws are
    functions of (seed, step, part of the batch). With `skip_overflows` (float16) the loss scale
    moves, and a step with gradients that are not finite changes nothing else.

    Args:
      average_decay: of the parameters' moving average; 0 for none. Early on it is less, so that the
        average soon forgets where training began: (1 + step) / (10 + step) at most.
    """

    def train_step(state: TrainState, rest: nnx.State, arrays: Any, batch: Batch, source: str = ""):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        keys, frozen = rest.split(lora.DropoutKey, ...)
        drawn = batch_key(seed, state.step)
        rows, shared = objective.prepare(arrays, batch, drawn, accumulation, source)

        def sums(params, part, index):
            dropout = lora.set_dropout_keys(keys, jax.random.fold_in(key, index))
            merged = model.merge(params | state.carried, nnx.merge_state(frozen, dropout))
            result = objective.sums(merged, part, shared, index)
            return result.loss * state.loss_scale.scale, result

        def gradient(part, index):
            (_, result), grads = jax.value_and_grad(sums, has_aux=True)(state.params, part, index)
            return result, grads

        # Summed over all parts, divided once: averages of averages weigh ragged parts wrong.
        total, grads = accumulate(gradient, rows, accumulation)
        scaled = jnp.maximum(total.divisor, 1.0) * state.loss_scale.scale
        grads = jax.tree.map(lambda g: g / scaled.astype(g.dtype), grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        carried, told = objective.carry(state.carried, total)
        figures = {**objective.figures(total), **told, "grad_norm": optax.global_norm(grads)}
        decay = jnp.minimum(average_decay, (1.0 + state.step) / (10.0 + state.step))
        average = {
            name: decay * state.average[name] + (1 - decay) * params[name] for name in state.average
        }
        loss_scale, skipped = state.loss_scale, jnp.float32(0.0)
        if skip_overflows:
            finite = loss_scaling.all_finite(grads)
            params, opt_state, carried, average = jax.tree.map(
                lambda new, old: jnp.where(finite, new, old),
                (params, opt_state, carried, average),
                (state.params, state.opt_state, state.carried, state.average),
            )
            loss_scale = loss_scaling.update(loss_scale, finite)
            skipped = (~finite).astype(jnp.float32)
        new = TrainState(state.step + 1, params, opt_state, loss_scale, carried, average)
        return new, {**figures, "skipped": skipped}

    return train_step


def make_eval_step(
    model: SplitModel, objective: Objective, *, seed: int = 0
) -> Callable[..., Sums]:
    """(what changes, rest of the model, objective's arrays, batch, its number, source) -> sums.

    Without dropout; what the objective draws is a function of (seed, number). To be jitted by the
    caller, with `source` static.
    """

    def eval_step(named, rest, arrays, batch: Batch, number, source: str = "") -> Sums:
        rows, shared = objective.prepare(arrays, batch, batch_key(seed, number), 1, source)
        return objective.sums(model.merge(named, rest), rows, shared, 0)

    return eval_step
