"""Asks a trained 4M for every direction of its config."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from medjax.data import setup
from medjax.data.wordpiece import WordPiece
from medjax.decoding.fourm.steps import check_all
from medjax.errors import UserError
from medjax.evaluation.fourm import baselines
from medjax.evaluation.fourm.cases import Case, Legend
from medjax.evaluation.fourm.report import Report
from medjax.evaluation.fourm.scores import MAIN_METRIC, Direction, parse
from medjax.modalities import display
from medjax.modalities.table import BOXES, EMBEDDINGS, IDS, IMAGE, LABELS, Modality
from medjax.models.fourm import FourMConfig
from medjax.pipelines.fourm import data
from medjax.pipelines.fourm.data import Source
from medjax.pipelines.fourm.steps import make_step
from medjax.pipelines.fourm.trained import Trained

BASELINE, CEILING, MODEL = "no looking", "tokenizer", "4M"
# Training samples that a baseline is fitted to.
_FITTED = 1000
_BOXES_SIDE = 224  # pixels, of boxes that there is no image beneath


def directions(config: ConfigDict, model: FourMConfig) -> tuple[Direction, ...]:
    """What is asked: the config's `evaluate.directions`, else each target of the first input that
    is not made of the same value.

    Raises:
      UserError: a direction that the model cannot go, or there is none.
    """
    table = {modality.name: modality for modality in model.modalities}
    asked = [parse(text, table) for text in config.evaluate.directions]
    if not asked:
        for target in model.targets:
            value = table[target].value
            others = [name for name in model.inputs if table[name].value != value]
            asked += [Direction((name,), target) for name in others[:1]]
    if not asked:
        raise UserError(
            "every input is made of the same value as every target, so that there is nothing to "
            "ask; set evaluate.directions, or leave data.test out"
        )
    for direction in asked:
        if (content := table[direction.target].content) not in MAIN_METRIC:
            raise UserError(f"direction {str(direction)!r}: values of {content!r} have no score")
        for name in direction.given:
            if name not in model.inputs:
                raise UserError(f"direction {str(direction)!r}: the model does not read {name!r}")
        if direction.target not in model.targets:
            raise UserError(
                f"direction {str(direction)!r}: the model does not predict {direction.target!r}"
            )
    return tuple(asked)


def prepare(
    name: str,
    config: ConfigDict,
    part: str,
    model: FourMConfig,
    wordpiece: WordPiece | None,
    channels: Mapping[str, int],
) -> tuple[tuple[Direction, ...], dict[str, Source]]:
    """What is asked of a stage's model, and the samples that it is asked of.

    Args:
      name: of the stage. config: its own.
      channels: of what its tokenizers read, by modality.

    Raises:
      UserError: the model cannot do it, or there is no such data.
    """
    asked = directions(config, model)
    for direction in asked:
        step = make_step(config.evaluate, model, wordpiece, direction.target)
        check_all([step], model, direction.given)
    names = dict.fromkeys(n for d in asked for n in (*d.given, d.target))
    modalities = [model.modality(n) for n in names]
    sources = data.open_sources(name, config, part, modalities, wordpiece, channels)
    for direction in asked:
        if not any(_has(source, direction) for source in sources.values()):
            raise UserError(
                f"{name}: data.{part} names no source that has all of direction "
                f"{str(direction)!r}; name one, or set evaluate.directions"
            )
    samples = {key: (source.samples, 1.0) for key, source in sources.items()}
    setup.check_group(samples, config.evaluate.group)
    return asked, sources


def _has(source: Source, direction: Direction) -> bool:
    """Whether the samples of a source have what a direction needs."""
    return {*direction.given, direction.target} <= {m.name for m in source.modalities}


def evaluate(trained: Trained, name: str, part: str) -> Report:
    """Scores every direction on a part of the data, beside what takes no looking.

    Args:
      name: of the stage.

    Raises:
      UserError: there is no such data.
    """
    config, model = trained.config, trained.model.config
    channels = {key: t.config.channels for key, t in trained.tokenizers.items()}
    asked, sources = prepare(name, config, part, model, trained.wordpiece, channels)
    group = config.evaluate.group
    report = Report(
        _show(trained), title=f"{config.name}: {part}", groups=f"{group or 'sample'}s",
        systems=(BASELINE, CEILING, MODEL), pictured=config.evaluate.shown,
        legend=_legend(trained.model.config, asked),
    )  # fmt: skip
    constants = _constants(trained, name, asked, channels)
    for direction in asked:
        modality = trained.model.config.modality(direction.target)
        classes = _classes(modality, channels)
        for case in _cases(trained, direction, sources, constants, config):
            report.add(direction, modality.content, case, classes)
    return report


def _constants(
    trained: Trained, name: str, asked: Sequence[Direction], channels: Mapping[str, int]
) -> dict[str, Any]:
    """What takes no looking, for each target; nothing for ids, which nobody would guess."""
    modalities = {d.target: trained.model.config.modality(d.target) for d in asked}
    sources = data.open_sources(
        name, trained.config, "train", [*modalities.values()], trained.wordpiece, channels
    )
    constants = {}
    for target, modality in modalities.items():
        source = next((s for s in sources.values() if modality in s.modalities), None)
        if source is None or modality.content == IDS:
            continue
        samples = data.evenly(source.samples, _FITTED)
        values = trained.true_values(trained.rows(samples, [target]), target)
        classes = _classes(modality, channels)
        constants[target] = baselines.constant(modality.content, values, len(classes))
    return constants


def _classes(modality: Modality, channels: Mapping[str, int]) -> tuple[str, ...]:
    """Its classes' names; where it has none, numbers, as many as its tokenizer tells apart."""
    count = channels.get(modality.name, 0) if modality.content == LABELS else 0
    return modality.classes or tuple(f"class {i}" for i in range(count))


def _cases(
    trained: Trained,
    direction: Direction,
    sources: Mapping[str, Source],
    constants: Mapping[str, Any],
    config: ConfigDict,
) -> Iterator[Case]:
    """What came of each sample that has what a direction needs."""
    names, target = (*direction.given, direction.target), direction.target
    size, number = config.evaluate.batch_size, 0
    for key, source in sources.items():
        if not _has(source, direction):
            continue
        samples = data.evenly(source.samples, config.evaluate.examples)
        prefix = f"{key}/" if len(sources) > 1 else ""
        bar = tqdm(total=len(samples), desc=str(direction), unit="sample")
        for start in range(0, len(samples), size):
            batch = samples[start : start + size]
            # One shape: the last batch is filled up with its last sample.
            filled = [*batch, *[batch[-1]] * (size - len(batch))]
            rows = trained.rows(filled, names)
            made = trained.make(
                rows, direction.given, [trained.step(target)], seed=config.seed, first=number
            )
            true, answers = trained.true_values(rows, target), trained.values(target, made[target])
            given = {name: trained.true_values(rows, name) for name in direction.given}
            back = trained.there_and_back(rows, target) if target in trained.tokenizers else None
            for i, sample in enumerate(batch):
                image = _image(trained, given, i)
                systems = {MODEL: answers[i]}
                if back is not None:
                    systems = {CEILING: back[i], **systems}
                if target in constants:
                    systems = {BASELINE: constants[target], **systems}
                yield Case(
                    id=prefix + sample.id,
                    group=str(sample.extra.get(config.evaluate.group, sample.id)),
                    given={name: _over(values[i], image) for name, values in given.items()},
                    made={system: _over(value, image) for system, value in systems.items()},
                    true=_over(true[i], image),
                    truncated=bool(rows["truncated"][i]),
                )
            number += len(batch)
            bar.update(len(batch))
        bar.close()


class _Boxes(tuple):
    """Boxes, and the image that they are drawn over."""

    over: np.ndarray


def _over(value: Any, image: np.ndarray) -> Any:
    if not isinstance(value, tuple):
        return value
    boxes = _Boxes(value)
    boxes.over = image
    return boxes


def _image(trained: Trained, given: Mapping[str, Sequence[Any]], index: int) -> np.ndarray:
    """The first image that was given, for boxes to be drawn over; else black."""
    for name, values in given.items():
        modality = trained.model.config.modality(name)
        if modality.content in (IMAGE, LABELS):
            shown = display.picture(modality, values[index])
            times = max(1, _BOXES_SIDE // shown.shape[0])
            return shown.repeat(times, axis=0).repeat(times, axis=1)
    return np.zeros((_BOXES_SIDE, _BOXES_SIDE, 3), np.uint8)


def _legend(model: FourMConfig, asked: Sequence[Direction]) -> Legend:
    """The colours of the classes of every mask that is shown."""
    names = dict.fromkeys(name for d in asked for name in (*d.given, d.target))
    colours = display.colours()
    return [
        (label, tuple(map(int, colours[number])))
        for modality in map(model.modality, names)
        for number, label in enumerate(modality.classes)
        if number
    ]


def _show(trained: Trained):
    def show(name: str, value: Any) -> np.ndarray | str:
        modality: Modality = trained.model.config.modality(name)
        if modality.content in (IMAGE, LABELS):
            return display.picture(modality, value)
        if modality.content == BOXES:
            return display.boxes_picture(value, value.over)
        if modality.content == EMBEDDINGS:
            return f"{modality.max_length} embeddings at most"
        return value if isinstance(value, str) else " ".join(map(str, value))

    return show
