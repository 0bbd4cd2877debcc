"""A run of PaliGemma: stages, answers to the test questions, an export to Hugging Face."""

import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from medjax import config as config_lib
from medjax import workdir as workdir_lib
from medjax.checkpoints import convert, huggingface, mask_codec, probe
from medjax.checkpoints.adapters import merged
from medjax.checkpoints.tensors import DTYPES
from medjax.cli import say
from medjax.data import setup
from medjax.data.medical import catalogue
from medjax.data.sources import Source
from medjax.data.tokenizer import Tokenizer
from medjax.errors import UserError
from medjax.evaluation import breakdown, grounding, metrics, segmentation
from medjax.evaluation import run as evaluation
from medjax.evaluation.asking import Asker
from medjax.evaluation.baselines import MAJORITY
from medjax.models import params
from medjax.models.config import PaliGemmaConfig
from medjax.models.mask_codec import MaskCodec
from medjax.pipelines import results, weights
from medjax.pipelines.fit import own_mesh
from medjax.pipelines.paligemma import stage as stages
from medjax.scaling import precision
from medjax.workdir import Workdir

_PARTS = ("train", "validation", "test")
# The keys of the config by which questions are asked.
_ASKED = ("decode", "evaluate")


def finish(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
    """What comes after training: the test questions asked, the last model exported."""
    outcome: dict[str, Any] = {}
    if setup.names_data(config, "test"):
        asked = results.settings(config, _ASKED)
        done = results.earlier(workdir, asked, evaluation.FILES)
        outcome["results"] = done or evaluate(config, workdir)
    if config.export.huggingface:
        outcome["export"] = _exported(config, workdir) or export(config, workdir)
    return outcome


def train(config: ConfigDict, workdir: Workdir) -> None:
    """Checks all stages, then trains those that are not trained yet."""
    configs = {
        name: config_lib.stage_config(config, name) for name in config_lib.stage_names(config)
    }
    _check_given(configs)
    first = next(iter(configs.values()))
    start = stages.open_init(first)
    tokenizer = _tokenizer(config, configs, workdir, start)
    model = stages.model_config(first, start, tokenizer)
    if config.export.huggingface:
        _check_export(model, tokenizer)
    plans = [stages.plan(name, stage, model, tokenizer) for name, stage in configs.items()]
    if setup.names_data(config, "test"):
        _questions(config, tokenizer, "test")
    _check_leaks(config, configs)
    workdir_lib.create(workdir, config)
    tokenizer.save(workdir.tokenizer)
    say(f"workdir {workdir.path}")
    for name, report in _reports(plans).items():
        say(f"what was done to {name}: {report}")
    earlier = None
    for plan in plans:
        if workdir.model(plan.name).exists():
            say(f"{plan.name}: trained already")
        else:
            if earlier is not None:
                start = weights.open_result(workdir.model(earlier))
            stages.run_stage(plan, workdir, start, tokenizer)
        earlier = plan.name


def _reports(plans: Sequence[stages.Plan]) -> dict[str, Any]:
    """The pages that tell what was done to datasets, by the datasets' names."""
    sources: list[Any] = [source for plan in plans for source, _ in plan.sources.values()]
    return {s.name: s.report for s in sources if hasattr(s, "report")}


def _check_given(configs: Mapping[str, ConfigDict]) -> None:
    """Raises UserError if there is nothing to train on, or nothing to start from."""
    lacking = []
    for name, config in configs.items():
        if not setup.names_data(config, "train"):
            keys = " or ".join(f"data.train.{key}.source" for key in config.data.train)
            lacking.append(
                f"{name}: there is no data to train on; set {keys or 'data.train in the recipe'} "
                "to a dataset's name or a JSON-lines file"
            )
    first = next(iter(configs.values()))
    if first.lora.rank and not first.init:
        lacking.append(
            "lora.rank is set, so that only adapters would learn beside weights that are random; "
            "set init to the weights to start from, an npz file or a model's folder, and tokenizer "
            "to theirs if they bring none"
        )
    if lacking:
        raise UserError(". ".join(lacking))


def _check_leaks(config: ConfigDict, configs: Mapping[str, ConfigDict]) -> None:
    """Raises UserError if medical datasets share what one trains on and another holds out."""
    parts = [(stage, part) for stage in configs.values() for part in _PARTS] + [(config, "test")]
    specs = [spec for stage, part in parts for spec in stage.data[part].values()]
    if len({(s.source, s.folder) for s in specs if s.source in catalogue.NAMES}) < 2:
        return
    # Imported here: TFDS takes a second.
    from medjax.data.medical import across

    opened: dict[str, list[Source]] = {part: [] for part in _PARTS}
    for stage, part in parts:
        opened[part] += [source for source, _ in setup.open_sources(stage, part).values()]
    held_out = opened["validation"] + opened["test"]
    across.check(opened["train"], held_out, setup.conditioning(config))


def _questions(config: ConfigDict, tokenizer: Tokenizer, part: str) -> setup.Joined:
    """What the models are asked: the run's data, else the last stage's.

    Raises:
      UserError: there is no such data, a question is too long, the groups' key is not there, or a
        metric or a key of results is unknown, a metric lacks its library, or the codec of masks
        cannot be read.
    """
    names = config_lib.stage_names(config)
    last = config_lib.stage_config(config, names[-1])
    sources = setup.open_sources(config, part) or setup.open_sources(last, part)
    if not sources:
        raise UserError(f"data.{part} names no source, so there is nothing to evaluate on")
    for name in _asked_stages(config):
        stage = config_lib.stage_config(config, name)
        where = f"{name}: data.{part}"
        sources = setup.fitting(sources, stage, tokenizer, where, answers=False)
    setup.check_group(sources, config.evaluate.group)
    metrics.check(config.evaluate.metrics)
    # All of them: a fact such as the plane is not known of every image.
    every = (source[i].extra for source, _ in sources.values() for i in range(len(source)))
    breakdown.check(config.evaluate.by, every)
    _mask_codec(config)
    return setup.Joined(sources, config.evaluate.examples)


def _mask_codec(config: ConfigDict) -> MaskCodec | None:
    """The codec by which masks are scored, if the config names one.

    Raises:
      UserError: it cannot be read.
    """
    path = config.evaluate.mask_codec
    return mask_codec.open_npz(pathlib.Path(path).expanduser()) if path else None


def _asked_stages(config: ConfigDict) -> tuple[str, ...]:
    names = config_lib.stage_names(config)
    return names if config.evaluate.every_stage else names[-1:]


def _tokenizer(config, configs, workdir: Workdir, start: weights.Start | None) -> Tokenizer:
    if workdir.tokenizer.exists():
        return Tokenizer.load(workdir.tokenizer)
    if start is not None and not config.tokenizer:
        if start.checkpoint.tokenizer is None:
            raise UserError(
                f"{start.checkpoint.where} brings no tokenizer; set tokenizer to Gemma's "
                "sentencepiece file (tokenizer.model)"
            )
        return Tokenizer.load(start.checkpoint.tokenizer)
    everything = itertools.chain.from_iterable(
        setup.texts(setup.open_sources(stage, "train")) for stage in configs.values()
    )
    return setup.make_tokenizer(config, everything)


def _exported(config: ConfigDict, workdir: Workdir) -> dict | None:
    """What `export` returned in an earlier run of this config, if it is all still there."""
    match results.read_json(workdir.export):
        case {"settings": settings, "files": [*names], "outcome": {"huggingface": _} as outcome}:
            there = all((workdir.huggingface / str(name)).is_file() for name in names)
            if there and settings == config.export.to_dict():
                say(f"exported already: {workdir.huggingface}")
                return outcome
    return None


def evaluate(config: ConfigDict, workdir: Workdir, part: str = "test") -> dict:
    """Asks the stages' models the test questions; see `evaluation.run.write` for what is written.

    Raises:
      UserError: a stage is not trained yet, or there is no such data.
    """
    names = config_lib.stage_names(config)
    for name in names:
        if not workdir.model(name).exists():
            raise UserError(f"{workdir.path}: stage {name} is not trained yet; run medjax.train")
    tokenizer = Tokenizer.load(workdir.tokenizer)
    source = _questions(config, tokenizer, part)
    systems = {}
    if config.evaluate.majority:
        train = [
            source
            for name in names
            for source, _ in setup.open_sources(
                config_lib.stage_config(config, name), "train"
            ).values()
        ]
        systems[MAJORITY] = evaluation.majority(train, source, config.evaluate.group)
    for name in _asked_stages(config):
        stage = config_lib.stage_config(config, name)
        ask = Asker(tokenizer, stage)
        dtype, mesh = precision.resolve(stage.dtype), own_mesh(stage)
        model = weights.load_result(workdir.model(name), dtype, mesh)
        stages.check_kernels(stage, model.config)
        parameters = params.count(model)
        if config.evaluate.grounding and name == names[-1]:
            systems |= grounding.answers(ask, model, source, stage, name)
        systems[name] = ask(model, source, name)
    if codec := _mask_codec(config):
        systems = {name: segmentation.compared(of, codec) for name, of in systems.items()}
    folder = results.folder_of(workdir, part)
    results.begin(folder)
    title = f"{config.name}: {part} questions"
    table = evaluation.write(
        folder, systems, source, title, config.evaluate.group,
        metrics=config.evaluate.metrics, by=config.evaluate.by,
    )  # fmt: skip
    called = workdir.path.absolute().name
    results.describe(folder, called, parameters, config.evaluate.licence)
    if part == "test":
        results.finish(folder, results.settings(config, _ASKED))
    say(table.to_text())
    say(f"answers: {folder / 'predictions.html'}")
    return table.to_dict()


def _check_export(model: PaliGemmaConfig, tokenizer: Tokenizer) -> None:
    try:
        huggingface.check_exportable(model, tokenizer)
    except UserError as error:
        raise UserError(f"{error}; set export.huggingface to False to train without") from error


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
    workdir.export.unlink(missing_ok=True)  # it comes back when all is written and checked
    huggingface.write_folder(whole, workdir.huggingface, overwrite=True)
    outcome: dict[str, Any] = {"huggingface": str(workdir.huggingface)}
    if not config.export.verify:
        say(f"exported to {workdir.huggingface}; not verified (export.verify)")
    else:
        question = probe.make(source.checkpoint.config)
        mesh = own_mesh(config)
        trained = probe.logits(source.checkpoint, question, source.adapter, mesh=mesh)
        written = probe.logits(huggingface.open_folder(workdir.huggingface), question, mesh=mesh)
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
    files = sorted(path.name for path in workdir.huggingface.iterdir())
    done = {"settings": config.export.to_dict(), "files": files, "outcome": outcome}
    results.write_json(workdir.export, done)
    return outcome
