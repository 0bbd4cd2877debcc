"""A run of 4M: tokenizers, then the model of every modality, and what it makes of test data."""

import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from medjax import config as config_lib
from medjax import workdir as workdir_lib
from medjax.checkpoints import fourm
from medjax.cli import say
from medjax.data import setup
from medjax.data.wordpiece import WordPiece, train_wordpiece
from medjax.errors import UserError
from medjax.evaluation.fourm.report import FILES
from medjax.modalities import table as modality_table
from medjax.modalities.table import BOXES, TEXT, Modality
from medjax.models.tokenizers import ImageTokenizerConfig
from medjax.pipelines import results, weights
from medjax.pipelines.fourm import data, evaluation, mask_codec, model, tokenizers, trained
from medjax.workdir import Workdir

Plan = tokenizers.Plan | mask_codec.Plan | model.Plan
# The keys of the config by which directions are asked.
_ASKED = ("evaluate",)


def finish(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
    """What comes after training: every direction scored, the last model exported."""
    outcome: dict[str, Any] = {"reconstructions": _reconstructions(config, workdir)}
    if _last_model(config) and setup.names_data(config, "test"):
        asked = results.settings(config, _ASKED)
        outcome["results"] = results.earlier(workdir, asked, FILES) or evaluate(config, workdir)
    if _last_model(config) and config.export.fourm:
        outcome["export"] = export(config, workdir)
    return outcome


def train(config: ConfigDict, workdir: Workdir) -> None:
    """Checks all stages, then trains those that are not trained yet."""
    configs = {
        name: config_lib.stage_config(config, name) for name in config_lib.stage_names(config)
    }
    table = modality_table.with_entries(config.modalities.to_dict())
    _check_data(configs, table)
    starts = {
        name: model.open_init(name, stage.init, table)
        for name, stage in configs.items()
        if stage.init and stage.kind == "fourm"
    }
    wordpiece = _wordpiece(config, configs, table, starts, workdir)
    made: dict[str, ImageTokenizerConfig | None] = dict.fromkeys(configs)
    plans: list[Plan] = []
    last: model.Plan | None = None
    for name, stage in configs.items():
        if stage.kind == "tokenizer":
            trains = tokenizers.plan(name, stage, table)
            made[name] = trains.tokenizer
            plans.append(trains)
        elif stage.kind == "mask_codec":
            plans.append(mask_codec.plan(name, stage, table))
        else:
            base = last.model if last else None
            if name in starts:
                base = starts[name].checkpoint.config
            last = model.plan(name, stage, table, base, wordpiece, made)
            plans.append(last)
    if last and setup.names_data(config, "test"):
        evaluation.prepare(last.name, last.config, "test", last.model, wordpiece, last.channels)
    workdir_lib.create(workdir, config)
    if wordpiece is not None:
        wordpiece.save(workdir.wordpiece)
    say(f"workdir {workdir.path}")
    earlier = ""
    for plan in plans:
        if workdir.model(plan.name).exists():
            say(f"{plan.name}: trained already")
        elif isinstance(plan, model.Plan):
            start = starts.get(plan.name)
            if start is None and earlier:
                start = weights.open_result(workdir.model(earlier))
            plan.run(workdir, configs, start)
        else:
            plan.run(workdir)
        if isinstance(plan, model.Plan):
            earlier = plan.name


def _check_data(configs: Mapping[str, ConfigDict], table: Mapping[str, Modality]) -> None:
    """Raises UserError if a stage has no data, or asks a source for a modality that there is not.

    One that a stage does not use is another stage's, and no mistake.
    """
    for name, config in configs.items():
        if not setup.names_data(config, "train"):
            raise data.lacking(name, config)
        for part in ("train", "validation", "test"):
            for key, spec in config.data[part].items():
                where = f"{name}: data.{part}.{key}.modalities"
                for modality in spec.modalities:
                    modality_table.lookup(modality, table, where=where)


def _last_model(config: ConfigDict) -> str:
    """The last stage that trains 4M; "" if none does."""
    names = config_lib.stage_names(config)
    kinds = {name: config_lib.stage_config(config, name).kind for name in names}
    return next((name for name in reversed(names) if kinds[name] == "fourm"), "")


def _wordpiece(
    config: ConfigDict,
    configs: Mapping[str, ConfigDict],
    table: Mapping[str, Modality],
    starts: Mapping[str, weights.Start],
    workdir: Workdir,
) -> WordPiece | None:
    """The run's tokenizer of texts, if it has any: named, of the weights, or trained on them."""
    models = {name: stage for name, stage in configs.items() if stage.kind == "fourm"}
    if workdir.wordpiece.exists():
        return WordPiece.load(workdir.wordpiece)
    if config.wordpiece:
        return WordPiece.load(pathlib.Path(config.wordpiece).expanduser())
    texts = {
        name: [m for m in model.named(name, stage, table) if m.content in (TEXT, BOXES)]
        for name, stage in models.items()
    }
    for name, start in starts.items():
        if start.checkpoint.tokenizer is not None:
            return WordPiece.load(start.checkpoint.tokenizer)
        if model.has_texts(start.checkpoint.config.modalities):
            raise UserError(
                f"{name}: {start.origin.path} brings no WordPiece file; set wordpiece to the file "
                "that it was trained with"
            )
    texts = {name: modalities for name, modalities in texts.items() if modalities}
    if not texts:
        return None
    places: dict[str, str] = {}
    for name, modalities in texts.items():
        places |= data.places(models[name], "train", modalities)
    if not any(places.values()):
        what = dict.fromkeys(modality.value for of in texts.values() for modality in of)
        raise UserError(
            f"there are no texts to learn words from; set {' or '.join(places) or 'data.train'} to "
            f"data with {' or '.join(what)}, or wordpiece to a tokenizer's file"
        )
    with tempfile.TemporaryDirectory() as folder:
        return train_wordpiece(
            _texts(models, texts),
            pathlib.Path(folder) / workdir.wordpiece.name,
            vocab_size=config.wordpiece_vocab_size,
            num_sentinels=config.wordpiece_sentinels,
            num_bins=config.wordpiece_bins,
        )


def _texts(configs: Mapping[str, ConfigDict], texts: Mapping[str, list[Modality]]) -> Iterator[str]:
    """Every text, and every label of a box, of the training data."""
    for name, modalities in texts.items():
        for modality in modalities:
            values = data.values(name, configs[name], "train", modality)
            for value in values:
                yield from [value] if modality.content == TEXT else [box.label for box in value]


def _reconstructions(config: ConfigDict, workdir: Workdir) -> dict[str, Any]:
    """What the stages of tokenizers said of themselves."""
    found = {}
    for name in config_lib.stage_names(config):
        told = results.read_json(workdir.stage(name) / "reconstruction.json")
        if told is not None:
            found[name] = told
    return found


def evaluate(config: ConfigDict, workdir: Workdir, part: str = "test") -> dict:
    """Scores every direction of the last model; see `evaluation.evaluate`.

    Raises:
      UserError: a stage is not trained yet, there is no such data, or the run trains no 4M.
    """
    name = _last_model(config)
    if not name:
        raise UserError(
            f"{workdir.path} trains no 4M, only tokenizers: their stages' reconstruction.json and "
            ".png say how good they are"
        )
    folder = results.folder_of(workdir, part)
    of_run = trained.load_stage(config, workdir, name)
    model.check_kernels(of_run.config, of_run.model.config)
    report = evaluation.evaluate(of_run, name, part)
    results.begin(folder)
    table = report.write(folder)
    if part == "test":
        results.finish(folder, results.settings(config, _ASKED))
    say(table.to_text())
    say(f"pictures of every direction: {folder / 'directions.html'}")
    return table.to_dict()


def export(config: ConfigDict, workdir: Workdir) -> dict:
    """Writes the last model in the official format, adapters merged, unless that cannot hold it."""
    name = _last_model(config)
    if fourm.is_folder(workdir.fourm):
        say(f"exported already: {workdir.fourm}")
        return {"fourm": str(workdir.fourm)}
    folder = workdir.model(name)
    checkpoint = weights.open_result(folder).checkpoint
    try:
        fourm.write_folder(checkpoint, workdir.fourm, overwrite=True)
    except UserError as error:
        say(f"{name}: not exported: {error}")
        return {"fourm": None, "reason": str(error)}
    say(f"exported to {workdir.fourm}")
    return {"fourm": str(workdir.fourm)}
