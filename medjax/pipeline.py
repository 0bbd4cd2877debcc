"""A whole run: data, stages, evaluation, export; each part is skipped if it is done."""

import itertools
import logging
import pathlib
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from medjax import config as config_lib
from medjax import workdir as workdir_lib
from medjax.checkpoints import convert, huggingface, probe
from medjax.checkpoints.adapters import merged
from medjax.checkpoints.tensors import DTYPES
from medjax.cli import say
from medjax.data import setup
from medjax.data.tokenizer import Tokenizer
from medjax.errors import UserError
from medjax.evaluation import run as evaluation
from medjax.scaling import precision
from medjax.training import stage as stages
from medjax.training.loop import Interrupted
from medjax.workdir import Workdir

__all__ = ["Interrupted", "evaluate", "run"]


def run(config: ConfigDict, path: pathlib.Path) -> dict:
    """Trains all stages, evaluates the last on the test data, and exports it.

    Returns:
      The results as `results.json` has them, and where everything lies.

    Raises:
      Interrupted: a signal asked to stop.
      UserError: something given cannot be used.
    """
    prepare_libraries()
    configs = {
        name: config_lib.stage_config(config, name) for name in config_lib.stage_names(config)
    }
    start = stages.open_init(next(iter(configs.values())))
    for stage in configs.values():  # a missing file is told of now, not hours later
        for part in ("train", "validation", "test"):
            setup.open_sources(stage, part)
    workdir = workdir_lib.prepare(path, config)
    say(f"workdir {workdir.path}")
    tokenizer = _tokenizer(config, configs, workdir, start)
    for name, stage in configs.items():
        stages.run_stage(name, stage, workdir, start, tokenizer)
        start = stages.open_result(workdir.model(name)) if len(configs) > 1 else start
    outcome: dict[str, Any] = {"workdir": str(workdir.path)}
    if jax.process_index() == 0:
        if config.data.test:
            outcome["results"] = evaluate(config, workdir)
        if config.export.huggingface:
            outcome["export"] = export(config, workdir)
    return outcome


def prepare_libraries() -> None:
    """Compiled programs are kept for the next run; libraries' notes stay out of the way."""
    if jax.config.read("jax_compilation_cache_dir") is None:
        jax.config.update("jax_compilation_cache_dir", str(setup.cache_dir() / "jax"))
    logging.getLogger("absl").setLevel(logging.WARNING)


def _tokenizer(config, configs, workdir: Workdir, start: stages.Start | None) -> Tokenizer:
    if start is not None and not config.tokenizer and not workdir.tokenizer.exists():
        if start.checkpoint.tokenizer is None:
            raise UserError(
                f"{start.checkpoint.where} brings no tokenizer; set tokenizer to Gemma's "
                "sentencepiece file (tokenizer.model)"
            )
        Tokenizer.load(start.checkpoint.tokenizer).save(workdir.tokenizer)
    everything = itertools.chain.from_iterable(
        setup.texts(setup.open_sources(stage, "train")) for stage in configs.values()
    )
    return setup.make_tokenizer(config, workdir.tokenizer, everything)


def evaluate(config: ConfigDict, workdir: Workdir, part: str = "test") -> dict:
    """Asks the stages' models the test questions; see `evaluation.run.write` for what is written.

    Raises:
      UserError: a stage is not trained yet, or there is no such data.
    """
    names = config_lib.stage_names(config)
    for name in names:
        if not workdir.model(name).exists():
            raise UserError(f"{workdir.path}: stage {name} is not trained yet; run medjax.train")
    held_out = setup.open_sources(config, part)
    if not held_out:
        raise UserError(f"data.{part} names no source, so there is nothing to evaluate on")
    source = setup.Joined([s for s, _ in held_out.values()], config.evaluate.examples)
    tokenizer = Tokenizer.load(workdir.tokenizer)
    systems = {}
    if config.evaluate.majority:
        train = [
            source
            for name in names
            for source, _ in setup.open_sources(
                config_lib.stage_config(config, name), "train"
            ).values()
        ]
        systems["majority answer"] = evaluation.majority(train, source)
    for name in names if config.evaluate.every_stage else names[-1:]:
        stage = config_lib.stage_config(config, name)
        model = stages.load_result(workdir.model(name), dtype=precision.resolve(stage.dtype))
        systems[name] = evaluation.answer(model, tokenizer, source, stage, name)
    folder = workdir.evaluation if part == "test" else workdir.path / f"evaluation_{part}"
    table = evaluation.write(folder, systems, source, f"{config.name}: {part} questions")
    say(table.to_text())
    say(f"answers: {folder / 'predictions.html'}")
    return table.to_dict()


def export(config: ConfigDict, workdir: Workdir) -> dict:
    """Writes the last stage's model as a Hugging Face folder, merged in float32, and checks it.

    Raises:
      UserError: the written model's logits are not those of the trained one.
    """
    folder = workdir.model(config_lib.stage_names(config)[-1])
    source = convert.open_source(
        convert.Request("medjax", "huggingface", folder, workdir.huggingface)
    )
    dtype = DTYPES[config.export.dtype]
    whole = source.checkpoint.astype(dtype)
    if source.adapter is not None:
        whole = merged(source.checkpoint, source.adapter, dtype)
    if not (workdir.huggingface / "config.json").exists():
        huggingface.write_folder(whole, workdir.huggingface)
    outcome: dict[str, Any] = {"huggingface": str(workdir.huggingface)}
    if config.export.verify:
        question = probe.make(source.checkpoint.config)
        trained = probe.logits(source.checkpoint, question, source.adapter)
        written = probe.logits(huggingface.open_folder(workdir.huggingface), question)
        difference = probe.difference(trained, written)
        largest = float(np.abs(trained).max())
        outcome["max_logit_difference"] = difference
        say(
            f"exported to {workdir.huggingface}; logits differ from the trained model's by at most "
            f"{difference:.2g} (largest logit {largest:.3g})"
        )
        # Rounding of the written dtype, with room for its growth through the layers.
        tolerance = {"float32": 1e-3, "float16": 5e-2, "bfloat16": 2e-1}[config.export.dtype]
        if not difference <= tolerance * max(1.0, largest):
            raise UserError(
                f"the export's logits differ by {difference:.3g}, more than {config.export.dtype} "
                f"explains; do not use {workdir.huggingface}"
            )
    return outcome
