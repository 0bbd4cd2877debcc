"""What the training of any stage has in common: from a model and its data to the trained model."""

import importlib.util
import pathlib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from medjax.checkpoints.adapters import Base
from medjax.checkpoints.manager import Checkpoints
from medjax.cli import say
from medjax.data.batching import Batch, TrainIterator
from medjax.errors import UserError
from medjax.evaluation import curves, curves_picture
from medjax.models import params
from medjax.models.lora import LoRAConfig
from medjax.scaling import sharding
from medjax.training import optimizers
from medjax.training.early_stopping import EarlyStopping
from medjax.training.loop import Schedule, Trainer, train
from medjax.training.objective import Objective


def fit(
    name: str,
    config: ConfigDict,
    model: nnx.Module,
    objective: Objective,
    data: TrainIterator,
    *,
    steps: int,
    mesh: Mesh,
    dtype: np.dtype,
    folder: pathlib.Path,
    base: Base | None = None,
    validation: Callable[[], Iterable[Batch]] | None = None,
    answers: Callable[[Any], Mapping[str, float]] | None = None,
) -> Any:
    """Trains a model, or continues its training, and returns it.

    Args:
      name: of the stage; config: its own.
      folder: of its checkpoints and metrics.
      base: see `Checkpoints`.
      validation: gives the batches of an evaluation.
      answers: see `loop.train`.

    Raises:
      Interrupted: see `loop.train`.
    """
    say(f"{name}: {params.trainable_share(model)}, {dtype} on {_devices(mesh)}, {steps:,} steps")
    trainer = make_trainer(config, model, objective, steps=steps, mesh=mesh, dtype=dtype)
    stopping = early_stopping(config)
    checkpoints = Checkpoints(
        folder / "checkpoints",
        base=base,
        keep_latest=config.keep_latest,
        keep_best=config.keep_best,
        metric=stopping.metric,
        lower=stopping.lower,
    )
    try:
        train(
            trainer,
            data,
            Schedule(steps, config.log_every, config.eval_every, config.checkpoint_every),
            folder,
            checkpoints=checkpoints,
            learning_rate=optimizers.schedule(config.optimizer, steps),
            validation=validation,
            answers=answers,
            stopping=stopping,
            name=name,
        )
        best = checkpoints.best() if config.restore_best else None
        if best is not None:
            say(f"{name}: ending with the best checkpoint, step {best}")
            trainer.state, _ = checkpoints.restore(best, trainer.state)
    finally:
        checkpoints.close()
    if jax.process_index() == 0:
        _draw_curves(name, config, folder)
    return trainer.model_with()


def _draw_curves(name: str, config: ConfigDict, folder: pathlib.Path) -> None:
    """Writes the stage's curves.png where matplotlib is installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return
    try:
        curves_picture.write_png(folder / "curves.png", [curves.of_stage(name, config, folder)])
    except Exception as error:  # a picture is no reason to end a run whose model is not saved yet
        say(f"{name}: curves.png was not drawn ({type(error).__name__}: {error})")
    else:
        say(f"{name}: curves: {folder / 'curves.png'}")


def make_trainer(
    config: ConfigDict,
    model: nnx.Module,
    objective: Objective,
    *,
    steps: int,
    mesh: Mesh,
    dtype: np.dtype,
) -> Trainer:
    """What trains a model, step by step, as a stage's config says."""
    multipliers = tuple(config.optimizer.lr_multipliers)
    return Trainer(
        model,
        objective,
        optimizers.create(config.optimizer, steps),
        mesh=mesh,
        dtype=dtype,
        seed=config.seed,
        accumulation=config.accumulation,
        average_decay=config.average_decay,
        frozen=lambda parameter: optimizers.multiplier(parameter, multipliers) == 0,
    )


def leaves_weights(config: ConfigDict) -> bool:
    """Whether some weights do not train, and so are in no checkpoint of the stage."""
    return bool(config.lora.rank) or any(m == 0 for _, m in config.optimizer.lr_multipliers)


def early_stopping(config: ConfigDict) -> EarlyStopping:
    """What says when a stage has stopped to improve, and by what its checkpoints are good."""
    return EarlyStopping(**config.early_stopping.to_dict())


def check_stopping(
    name: str, config: ConfigDict, figures: Collection[str], validation: Any
) -> None:
    """Raises UserError if a stage is to stop, or be kept, by what its validation does not tell.

    Args:
      figures: the names of those that an evaluation tells.
      validation: the data of it; none if there are none, or none is asked for.
    """
    stopping = early_stopping(config)
    if validation and config.eval_every:
        stopping.check(figures, f"{name}: ")
    elif stopping.patience:
        raise UserError(
            f"{name}: early_stopping.patience is {stopping.patience}, but nothing is validated; "
            "set data.validation and eval_every, or patience to 0"
        )


def lora_config(config: ConfigDict) -> LoRAConfig | None:
    """The adapters of a stage; None without (rank 0)."""
    if not config.lora.rank:
        return None
    return LoRAConfig(
        rank=config.lora.rank,
        alpha=config.lora.alpha,
        dropout=config.lora.dropout,
        targets=tuple(config.lora.targets),
        towers=tuple(config.lora.towers),
        init=config.lora.init,
    )


def steps_of(config: ConfigDict, examples: int) -> int:
    """How many steps a stage has.

    Raises:
      UserError: it is said twice, or not at all.
    """
    if bool(config.steps) == bool(config.epochs):
        raise UserError(
            f"set steps or epochs, and not both (steps {config.steps}, epochs {config.epochs}): "
            "the other one is 0"
        )
    return config.steps or max(1, int(np.ceil(config.epochs * examples / config.batch_size)))


def make_mesh(config: ConfigDict) -> Mesh:
    """The stage's mesh.

    Raises:
      UserError: it does not fit the devices, or the batch does not divide among them.
    """
    mesh = sharding.make_mesh(config.mesh)
    if config.batch_size % (ways := config.accumulation * mesh.shape["data"] * mesh.shape["fsdp"]):
        raise UserError(
            f"batch_size {config.batch_size} is no multiple of {ways}, which is accumulation x "
            "mesh.data x mesh.fsdp; change one of them"
        )
    return mesh


def own_mesh(config: ConfigDict) -> Mesh:
    """A mesh of this process's devices, for what it does alone with a trained model.

    It is the config's if that fits them; a run may be asked on another machine.
    """
    devices = jax.local_devices()
    try:
        return sharding.make_mesh(config.mesh, devices)
    except UserError as error:
        say(f"{error}; fsdp takes them all instead")
        return sharding.make_mesh({"fsdp": -1}, devices)


def check_optimizer(name: str, config: ConfigDict, steps: int, shapes: dict) -> None:
    """Raises UserError unless the stage's optimizer can train parameters of these shapes."""
    try:
        optimizers.check(config.optimizer, steps, shapes)
        optimizers.check_multipliers(shapes, config.optimizer.lr_multipliers)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def _devices(mesh) -> str:
    devices = mesh.devices.flat
    kind = devices[0].device_kind
    sizes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1)
    return f"{mesh.size} {kind}" + (f" ({sizes})" if sizes else "")
