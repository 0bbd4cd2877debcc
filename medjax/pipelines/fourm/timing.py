"""How long a trained 4M takes: to learn from a batch, to write a token, to make an image."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
from tqdm import tqdm

from medjax.evaluation.fourm.scores import Direction
from medjax.pipelines import weights
from medjax.pipelines.fit import make_trainer
from medjax.pipelines.fourm import data, evaluation
from medjax.pipelines.fourm.data import Source
from medjax.pipelines.fourm.model import Plan
from medjax.pipelines.fourm.trained import Trained

TRAIN, TOKEN, IMAGE = "train_step", "token", "image"
_UNTIMED = 2  # rounds in which programs are compiled


class Task(NamedTuple):
    """What is timed.

    Attributes:
      words: what it is. call: does it, and returns when it is done.
      parts: what a call's time is divided by.
    """

    words: str
    call: Callable[[], None]
    parts: int = 1


def tasks(trained: Trained, plan: Plan) -> dict[str, Task]:
    """What a model can do of TRAIN, TOKEN and IMAGE.

    A token of a sequence and an image are of the first directions of the config's evaluation, in
    batches of its size, made of test data. A token's time has its part of the encoder's.
    """
    config, model, size = trained.config, trained.model.config, trained.config.evaluate.batch_size
    found = {TRAIN: Task(f"training step: {config.batch_size} samples", _train_step(trained, plan))}
    asked, sources = evaluation.prepare(
        plan.name, config, "test", model, trained.wordpiece, plan.channels
    )
    for direction in asked:
        target = model.modality(direction.target)
        if target.is_image and IMAGE not in found:
            call = _make(trained, direction, sources, size)
            found[IMAGE] = Task(f"{size} images: {direction}", call)
        elif not target.is_image and TOKEN not in found:
            # Without an end, so that all are as long.
            call = _make(trained, direction, sources, size, eos_id=None, sentinels=())
            found[TOKEN] = Task(f"a token of {size} texts: {direction}", call, target.length)
    return {key: found[key] for key in (TRAIN, TOKEN, IMAGE) if key in found}


def in_turns(models: Sequence[Mapping[str, Task]], rounds: int) -> list[dict[str, list[float]]]:
    """The seconds of each model's tasks, round by round.

    The models take turns at each task, so that other work on the machine slows all alike.
    """
    seconds: list[dict[str, list[float]]] = [{key: [] for key in of} for of in models]
    for number in tqdm(range(_UNTIMED + rounds), desc="timing", unit="round"):
        for key in models[0]:
            for of, times in zip(models, seconds, strict=True):
                began = time.perf_counter()
                of[key].call()
                if number >= _UNTIMED:
                    times[key].append((time.perf_counter() - began) / of[key].parts)
    return seconds


def _train_step(trained: Trained, plan: Plan) -> Callable[[], None]:
    """Steps on a batch of the training data, from random weights."""
    config = plan.config
    model, dtype = weights.make_model(config, plan.model, None, plan.mesh)
    objective = plan.objective(trained.tokenizers)
    trainer = make_trainer(config, model, objective, steps=plan.steps, mesh=plan.mesh, dtype=dtype)
    stream = data.train_data(config, plan.train)
    batch = next(stream)
    stream.close()
    return lambda: jax.block_until_ready(trainer.step(batch.arrays, batch.source))


def _make(
    trained: Trained,
    direction: Direction,
    sources: Mapping[str, Source],
    size: int,
    **changes,
) -> Callable[[], None]:
    given = set(direction.given)
    source = next(s for s in sources.values() if given <= {m.name for m in s.modalities})
    samples = data.evenly(source.samples, size)
    filled = [samples[i % len(samples)] for i in range(size)]
    rows = trained.rows(filled, direction.given)
    step = trained.step(direction.target, **changes)
    return lambda: jax.block_until_ready(trained.make(rows, direction.given, [step]))
