"""One stage of a run: from a config and a start to a trained model folder."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from medjax.checkpoints import adapters, tensors
from medjax.cli import say
from medjax.data import setup
from medjax.data.batching import Phase, TrainIterator, make_eval_batches, make_train_iterator
from medjax.data.setup import Joined
from medjax.data.sources import Source
from medjax.data.tokenizer import Tokenizer
from medjax.decoding.config import DecodeConfig
from medjax.errors import UserError
from medjax.evaluation import answered
from medjax.evaluation.answered import Chosen
from medjax.evaluation.asking import Asker
from medjax.models import families, variants
from medjax.models.config import PaliGemmaConfig
from medjax.pipelines import weights
from medjax.pipelines.fit import (
    check_optimizer,
    check_stopping,
    fit,
    leaves_weights,
    lora_config,
    make_mesh,
    steps_of,
)
from medjax.pipelines.weights import Start
from medjax.scaling import kernels, precision
from medjax.training.objectives.paligemma import Answers
from medjax.workdir import Workdir


def open_init(config: ConfigDict) -> Start | None:
    """The weights that `init` names; None for a model from scratch.

    Raises:
      UserError: there is nothing of the kind, or it is not of the config's model.
    """
    if not config.init:
        return None
    named = variants.resolve(_plain(config.model), config.image_size) if config.model else None
    start = weights.open_start(config.init, named)
    families.check(start.checkpoint.config, families.PALIGEMMA, f"init {config.init}")
    size = start.checkpoint.config.image_size
    if size != config.image_size:
        raise UserError(
            f"image_size is {config.image_size}, but {config.init} is a model for {size} pixels; "
            "set image_size to that, or use other weights"
        )
    return start


def _plain(model):
    return model.to_dict() if isinstance(model, ConfigDict) else model


def model_config(config: ConfigDict, start: Start | None, tokenizer: Tokenizer) -> PaliGemmaConfig:
    """The sizes of the stage's model; from scratch, its vocabulary is the tokenizer's.

    Raises:
      UserError: no model is named, or the tokenizer has more tokens than it.
    """
    if start is not None:
        model = start.checkpoint.config
    elif not config.model:
        raise UserError("model is not set; name a model, or weights as init")
    else:
        plain = _plain(config.model)
        if isinstance(plain, dict):
            plain = plain | {"llm": {"vocab_size": tokenizer.vocab_size} | plain.get("llm", {})}
        model = variants.resolve(plain, config.image_size)
    if tokenizer.vocab_size > model.llm.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model only "
            f"{model.llm.vocab_size}: they do not belong together"
        )
    return model


@dataclasses.dataclass(frozen=True)
class Plan:
    """A stage that can be trained as far as can be told without weights; see `plan`.

    Attributes:
      sources: of the training data, with their weights, by name.
      phases: of its curriculum; none: all sources at once.
      held_out: the validation data; None if it is never asked for.
      asked: those of them that are answered at each evaluation; None if none are.
      model: its sizes.
      steps: of training.
    """

    name: str
    config: ConfigDict
    sources: Mapping[str, tuple[Source, float]]
    phases: tuple[Phase, ...]
    held_out: Joined | None
    asked: Chosen | None
    model: PaliGemmaConfig
    mesh: Mesh
    steps: int


def plan(name: str, config: ConfigDict, model: PaliGemmaConfig, tokenizer: Tokenizer) -> Plan:
    """Checks all of a stage that can be checked before anything is written or computed.

    Raises:
      UserError: something in the config, or its data, cannot be used.
    """
    transform = setup.make_transform(config, tokenizer)
    sources, validation = (
        setup.fitting(setup.open_sources(config, part), config, tokenizer, f"{name}: data.{part}")
        for part in ("train", "validation")
    )
    for source_name, (source, _) in sources.items():
        if source.faults:
            faults = ", ".join(f"{count} {kind}" for kind, count in source.faults.items())
            say(f"{name}: {source_name}: bad rows left out: {faults}")
        transform(source[0], np.random.default_rng(0))  # tried, so that it does not fail later
    DecodeConfig(**config.decode.to_dict())
    check_kernels(config, model)
    phases = _phases(name, config, sources)
    if phases:
        steps = sum(phase.batches for phase in phases)
    else:
        steps = steps_of(config, sum(len(source) for source, _ in sources.values()))
    held_out = Joined(validation) if validation and config.eval_every else None
    asked = answered.chosen(held_out, config.eval_answers) if held_out is not None else None
    figures = (*_objective(config).names, *answered.names(asked))
    check_stopping(name, config, figures, held_out)
    mesh = make_mesh(config)
    adapted = lora_config(config)
    shapes = tensors.specs(model) if adapted is None else adapters.adapter_specs(model, adapted)
    check_optimizer(name, config, steps, shapes)
    planned = Plan(
        name,
        config,
        sources,
        phases,
        held_out,
        asked,
        model,
        mesh,
        steps,
    )
    _train_data(planned, None).close()
    return planned


def _objective(config: ConfigDict) -> Answers:
    return Answers(config.loss.normalize, config.loss.label_smoothing)


def _phases(
    name: str, config: ConfigDict, sources: Mapping[str, tuple[Source, float]]
) -> tuple[Phase, ...]:
    """The curriculum of a stage: so many passes over the sources of each phase.

    Raises:
      UserError: a phase has no source, or the length of training is said twice.
    """
    passes = config.data.phases
    if passes and (config.steps or config.epochs):
        raise UserError(f"{name}: data.phases says how long training is; set steps and epochs to 0")
    phases = []
    for number, epochs in enumerate(passes):
        names = tuple(key for key in sources if config.data.train[key].phase == number)
        if not names:
            raise UserError(f"{name}: no source of data.train is of phase {number} of data.phases")
        examples = sum(len(sources[key][0]) for key in names)
        phases.append(Phase(names, max(1, math.ceil(epochs * examples / config.batch_size))))
    return tuple(phases)


def check_kernels(config: ConfigDict, model: PaliGemmaConfig) -> None:
    """Raises UserError if the model cannot run here with the kernels that the config names."""
    heads = model.img.width // model.img.num_heads, model.llm.head_dim
    widths = {"attention": heads, "cross_entropy": (model.llm.width,)}
    kernels.check(config, widths, precision.resolve(config.dtype))


def _train_data(plan: Plan, transform: Any) -> TrainIterator:
    return make_train_iterator(
        plan.sources,
        transform,
        batch_size=plan.config.batch_size,
        seed=plan.config.seed,
        phases=plan.phases,
        augment=bool(getattr(transform, "augment", None)),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        workers=plan.config.data.workers,
    )


def run_stage(plan: Plan, workdir: Workdir, start: Start | None, tokenizer: Tokenizer) -> None:
    """Trains one stage, or continues it, and writes its model folder.

    Raises:
      Interrupted: see `loop.train`.
      UserError: something in the config or its data cannot be used.
    """
    name, config, mesh, steps = plan.name, plan.config, plan.mesh, plan.steps
    base = None
    if start is not None and leaves_weights(config):
        start = weights.hashed(start)
        base = start.origin
    transform = setup.make_transform(config, tokenizer)
    validation = None
    if plan.held_out is not None:
        held_out = plan.held_out

        def validation():
            return make_eval_batches(
                held_out,
                transform,
                config.batch_size,
                process_index=jax.process_index(),
                process_count=jax.process_count(),
            )

    ordered = tokenizer.loc_ids if config.ordered_loc_init else None
    model, dtype = weights.make_model(config, plan.model, start, mesh, ordered)
    trained = fit(
        name,
        config,
        model,
        _objective(config),
        _train_data(plan, transform),
        steps=steps,
        mesh=mesh,
        dtype=dtype,
        folder=workdir.stage(name),
        base=base,
        validation=validation,
        answers=_answers(plan, transform, tokenizer),
    )
    weights.save(workdir.model(name), config, trained, start, workdir.tokenizer)


def _answers(
    plan: Plan, transform: Any, tokenizer: Tokenizer
) -> Callable[[Any], Mapping[str, float]] | None:
    """Gives the figures of a model's answers to validation questions; None if none are asked."""
    if (asked := plan.asked) is None:
        return None
    ask = Asker(tokenizer, plan.config, transform)
    return lambda model: answered.figures(ask(model, asked, plan.name, keep_bar=False))
