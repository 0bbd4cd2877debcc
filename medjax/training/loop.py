"""The loop: batches in, metrics and checkpoints out; interrupted and continued at any step."""

import collections
import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from tqdm import tqdm

from medjax.checkpoints.manager import Checkpoints
from medjax.cli import say
from medjax.data.batching import Batch, TrainIterator
from medjax.errors import UserError
from medjax.scaling import sharding
from medjax.training import loss_scaling
from medjax.training.early_stopping import EarlyStopping
from medjax.training.objective import SUMMED, Figures, Objective
from medjax.training.signals import StopRequest
from medjax.training.step import TrainState, make_eval_step, make_train_step, split
from medjax.training.writers import MetricsWriter


class Interrupted(Exception):
    """Training was asked to stop; everything is saved, and the same command continues."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When what happens, in steps; 0 is never."""

    steps: int
    log_every: int
    eval_every: int
    checkpoint_every: int


class Trainer:
    """One training of one model.

    Attributes:
      state: what changes, see `TrainState`.
    """

    def __init__(
        self,
        model: nnx.Module,
        objective: Objective,
        optimizer: optax.GradientTransformation,
        *,
        mesh: Mesh,
        dtype: np.dtype,
        seed: int = 0,
        accumulation: int = 1,
        average_decay: float = 0.0,
        frozen: Callable[[str], bool] = lambda name: False,
    ):
        self._mesh, self._objective = mesh, objective
        self._still, dropping, params, carried, self._rest = split(model, frozen)
        if not params:
            raise UserError("optimizer.lr_multipliers freeze every parameter; nothing is left")
        # Copied, since the step donates its state and the model may be wanted afterwards.
        params, carried, average = (
            {name: jax.device_put(x.copy(), _layout(x, mesh)) for name, x in named.items()}
            for named in (params, carried, params if average_decay else {})
        )
        moments = sharding.optimizer_shardings(optimizer, params, mesh)
        opt_state = jax.jit(optimizer.init, out_shardings=moments)(params)
        whole = sharding.replicated(mesh)
        rest = (jnp.int32(0), loss_scaling.create(dtype))
        step, loss_scale = jax.device_put(rest, whole)
        self._arrays = jax.device_put(objective.arrays, whole)
        self.state = TrainState(step, params, opt_state, loss_scale, carried, average)
        layouts = jax.tree.map(lambda x: x.sharding, self.state)
        train_step = make_train_step(
            dropping,
            objective,
            optimizer,
            seed=seed,
            accumulation=accumulation,
            skip_overflows=dtype == np.float16,
            average_decay=average_decay,
        )
        # The state goes out as it came in, or the second step would be compiled anew.
        self._train_step = jax.jit(
            train_step, donate_argnums=0, out_shardings=(layouts, None), static_argnames="source"
        )
        self._eval_step = jax.jit(
            make_eval_step(self._still, objective, seed=seed), static_argnames="source"
        )
        self._figures = jax.jit(objective.figures)

    @property
    def _named(self) -> dict[str, jax.Array]:
        """What a model is made of that is used: the averaged parameters, if there are any."""
        return (self.state.average or self.state.params) | self.state.carried

    def model_with(self, params: dict[str, jax.Array] | None = None) -> Any:
        """The model with these parameters, or with the present ones (averaged, if they are)."""
        return self._still.merge(self._named | (params or {}), self._rest)

    def step(self, arrays: Mapping[str, np.ndarray], source: str = "") -> Figures:
        """Trains on one batch of this process; returns the figures, not waited for."""
        put = sharding.put_batch(arrays, self._mesh)
        self.state, figures = self._train_step(
            self.state, self._rest, self._arrays, put, source=source
        )
        return figures

    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """The objective's figures over batches, but for their sums and what there was none of."""
        total: Any = None
        for number, batch in enumerate(batches):
            put = sharding.put_batch({**batch.arrays, "valid": batch.valid}, self._mesh)
            sums = self._eval_step(
                self._named, self._rest, self._arrays, put, number, source=batch.source
            )
            # Exact for long sets, which float32 is not.
            sums = jax.tree.map(lambda x: np.asarray(x, np.float64), sums)
            total = sums if total is None else jax.tree.map(np.add, total, sums)
        figures = self._figures(jax.tree.map(np.float32, total))
        told = {key: float(value) for key, value in figures.items() if key not in SUMMED}
        return {key: v for key, v in told.items() if key == "loss" or not math.isnan(v)}


def train(
    trainer: Trainer,
    data: TrainIterator,
    schedule: Schedule,
    folder: pathlib.Path,
    *,
    checkpoints: Checkpoints,
    learning_rate: optax.Schedule,
    validation: Callable[[], Iterable[Batch]] | None = None,
    answers: Callable[[Any], Mapping[str, float]] | None = None,
    stopping: EarlyStopping | None = None,
    name: str = "train",
) -> None:
    """Trains to the schedule's end, from the latest checkpoint in `checkpoints` if there is one.

    Args:
      validation: gives the batches of an evaluation.
      answers: what else is told of the model at each evaluation, from the model as it then is; the
        same in every process.
      stopping: may end training before the schedule does; a checkpoint at which it did is an end.

    Raises:
      Interrupted: a signal asked to stop; the state is saved.
      UserError: the loss is not a number; the message names the step and its examples. Or
        validation does not tell the metric of `stopping`.
    """
    stopping = stopping or EarlyStopping()
    start = _restore(trainer, data, checkpoints, stopping)
    if start >= schedule.steps or stopping.reached:
        return
    writer = MetricsWriter(folder, start)
    window = _Window(learning_rate)
    bar = tqdm(
        total=schedule.steps, initial=start, desc=name, unit="step", mininterval=1.0,
        dynamic_ncols=True,
    )  # fmt: skip
    try:
        with StopRequest() as stop:
            for step in range(start + 1, schedule.steps + 1):
                batch = next(data)
                window.add(step, batch, trainer.step(batch.arrays, batch.source))
                bar.update()
                last = step == schedule.steps
                result, row = None, {}
                if _due(step, schedule.log_every) or last:
                    row = window.flush(step)
                    said = {key: value for key, value in row.items() if key not in SUMMED}
                    say(f"{name} step {step}: " + _format(said))
                if validation and (_due(step, schedule.eval_every) or last):
                    began = time.perf_counter()
                    result = trainer.evaluate(validation())
                    if answers is not None:
                        result = {**answers(trainer.model_with()), **result}
                    window.leave_out(time.perf_counter() - began)
                    say(f"{name} step {step}: validation " + _format(result))
                    stopping.add(step, result)
                    if stopping.reached and not row:
                        row = window.flush(step)
                    row |= {f"validation/{k}": v for k, v in result.items()}
                if row:
                    writer.write(step, {"epoch": data.epoch, **row})
                # The best must be saved to be kept: with validation, every evaluation saves.
                if result is not None or _due(step, schedule.checkpoint_every) or last:
                    window.check()
                    checkpoints.save(step, trainer.state, _position(data, stopping), result)
                if stopping.reached:
                    say(f"{name} step {step}: {stopping.told()}")
                    break
                if stop.requested:
                    window.check()
                    checkpoints.save(step, trainer.state, _position(data, stopping))
                    checkpoints.wait()
                    raise Interrupted(f"{name}: stopped at step {step}; all is saved")
        checkpoints.wait()
    finally:
        bar.close()
        writer.close()
        data.close()


def _layout(param: jax.Array | np.ndarray, mesh: Mesh) -> NamedSharding:
    """Where a parameter lies: on the mesh as it is, or copied to all of it."""
    layout = getattr(param, "sharding", None)
    return layout if isinstance(layout, NamedSharding) else sharding.replicated(mesh)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _position(data: TrainIterator, stopping: EarlyStopping) -> dict[str, Any]:
    """What a checkpoint says beside the state."""
    return {**data.get_state(), "early_stopping": stopping.state()}


def _restore(
    trainer: Trainer, data: TrainIterator, checkpoints: Checkpoints, stopping: EarlyStopping
) -> int:
    step = checkpoints.latest()
    if step is None:
        return 0
    trainer.state, position = checkpoints.restore(step, trainer.state)
    data.set_state(position)
    stopping.set_state(position.get("early_stopping"))
    say(f"continuing from step {step}")
    return step


class _Window:
    """Metrics since the last log line. They are read one step late, so that no step waits."""

    def __init__(self, learning_rate: optax.Schedule):
        self._learning_rate = learning_rate
        self._pending: collections.deque[tuple[int, Batch, Any]] = collections.deque()
        self._read: list[dict[str, float]] = []
        self._truncated = self._examples = self._skips = 0
        self._since = time.perf_counter()

    def add(self, step: int, batch: Batch, metrics) -> None:
        self._pending.append((step, batch, metrics))
        self._truncated += int(batch.truncated.sum())
        self._examples += len(batch.ids)
        while len(self._pending) > 1:
            self._take()

    def _take(self) -> None:
        step, batch, metrics = self._pending.popleft()
        values = {key: float(value) for key, value in metrics.items()}
        self._skips = self._skips + 1 if values["skipped"] else 0
        # A finite loss may have a gradient that is not, and then ruins the parameters.
        finite = math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"])
        if not finite and self._skips in (0, loss_scaling.MAX_SKIPS):
            raise UserError(
                f"the loss is {values['loss']} and the gradient's norm {values['grad_norm']} at "
                f"step {step}. Lower optimizer.learning_rate, or look at the examples of this "
                f"step: {', '.join(batch.ids)}. Nothing of this step was saved."
            )
        self._read.append(values)

    def check(self) -> None:
        """Reads what is pending; raises UserError if a loss or gradient is not a number."""
        while self._pending:
            self._take()

    def leave_out(self, seconds: float) -> None:
        """Does not count time that was not spent on training."""
        self._since += seconds

    def flush(self, step: int) -> dict[str, float]:
        """Means and sums since the last time."""
        self.check()
        seconds = time.perf_counter() - self._since
        means = _means([values for values in self._read if not values["skipped"]])
        extra = {
            "learning_rate": float(self._learning_rate(step - 1)),
            "examples_per_second": self._examples / seconds,
        }
        for key in SUMMED:
            if values := [row[key] for row in self._read if key in row]:
                extra[key] = sum(values)
        if skipped := sum(values["skipped"] for values in self._read):
            extra["skipped_steps"] = skipped
        if self._truncated:
            extra["truncated_examples"] = float(self._truncated)
        self._read, self._truncated, self._examples = [], 0, 0
        self._since = time.perf_counter()
        return means | extra


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    """Mean figures; what is not a number in some steps (a modality was absent) is of the others."""
    columns: dict[str, list[float]] = {}
    for row in rows:
        for key, value in row.items():
            if key not in (*SUMMED, "skipped") and not math.isnan(value):
                columns.setdefault(key, []).append(value)
    return {key: float(np.mean(values)) for key, values in columns.items()}


def _format(values: dict[str, float]) -> str:
    # Losses first: jit gives dictionaries back in alphabetical order.
    names = sorted(values, key=lambda name: not name.startswith("loss"))
    return ", ".join(f"{name} {values[name]:.4g}" for name in names)
