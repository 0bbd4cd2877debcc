"""The samples of a stage: its sources, and how each becomes rows of a batch."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from medjax.cli import say
from medjax.data import setup
from medjax.data.augment import Augment
from medjax.data.samples import Sample, SampleSource, open_samples
from medjax.data.samples.batching import make_eval_batches, make_train_iterator
from medjax.data.streams import Batch, Row, TrainIterator
from medjax.data.wordpiece import WordPiece
from medjax.errors import UserError
from medjax.modalities.table import Modality
from medjax.modalities.transforms import SampleTransform


@dataclasses.dataclass(frozen=True)
class Source:
    """Samples with the modalities of the stage that they have, and how they become rows."""

    samples: SampleSource
    spec: ConfigDict
    modalities: tuple[Modality, ...]
    transform: Callable[..., Row]


def open_sources(
    name: str,
    config: ConfigDict,
    part: str,
    modalities: Sequence[Modality],
    wordpiece: WordPiece | None = None,
    channels: Mapping[str, int] | None = None,
) -> dict[str, Source]:
    """The sources of a part of a stage's data that have some of its modalities, by name.

    One sample of each is transformed, so that what cannot be used is told of at once.

    Args:
      name: of the stage, for messages.
      part: train, validation or test.
      modalities: all that the stage can use.
      channels: of what a tokenizer reads, by modality.

    Raises:
      UserError: no such source or modality, or its data cannot be used.
    """
    augment = augmentation(config, part)
    sources = {}
    for key, (samples, spec, chosen) in _open(name, config, part, modalities, channels).items():
        transform = SampleTransform(chosen, wordpiece, channels, augment)
        transform(samples[0])
        sources[key] = Source(samples, spec, chosen, transform)
    return sources


def _open(
    name: str,
    config: ConfigDict,
    part: str,
    modalities: Sequence[Modality],
    channels: Mapping[str, int] | None,
) -> dict[str, tuple[SampleSource, ConfigDict, tuple[Modality, ...]]]:
    """Each source's samples, its keys in the config, and which modalities it is asked for."""
    opened = {}
    for key, spec in config.data[part].items():
        chosen = _chosen(spec, modalities)
        if not spec.source or not chosen:  # a place that a recipe keeps for one's own data
            continue
        where = f"{name}: data.{part}.{key}"
        samples = open_samples(
            spec.source,
            split=spec.split,
            names=list(dict.fromkeys(m.value for m in chosen)),
            modalities=chosen,
            channels=channels,
            image_root=spec.image_root,
            data_dir=setup.data_dir(config),
            on_bad_example=config.data.on_bad_example,
            cache_bytes=config.data.image_cache_mib * 2**20,
        )
        if samples.faults:
            faults = ", ".join(f"{count} {kind}" for kind, count in samples.faults.items())
            say(f"{where}: bad rows left out: {faults}")
        if not len(samples):
            raise UserError(f"{where}: {spec.source} has no samples")
        opened[key] = (samples, spec, chosen)
    return opened


def augmentation(config: ConfigDict, part: str) -> Augment | None:
    """How a part of the data is varied: training data as the config says, others not at all."""
    return Augment(**config.data.augment.to_dict()) if part == "train" else None


def train_data(config: ConfigDict, sources: Mapping[str, Source]) -> TrainIterator:
    """The stage's endless training batches, each of one source."""
    return make_train_iterator(
        {key: (s.samples, s.spec.weight, s.transform) for key, s in sources.items()},
        batch_size=config.batch_size,
        seed=config.seed,
        augment=bool(augmentation(config, "train")),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        workers=config.data.workers,
    )


def eval_data(
    config: ConfigDict, sources: Mapping[str, Source], part: str
) -> Callable[[], Iterator[Batch]] | None:
    """Gives one pass over the sources, one after another; None if there are none, or none is asked
    for (eval_every).

    A batch's source is "<part>.<name>", since train may have a source of the same name.
    """
    if not sources or not config.eval_every:
        return None

    def batches() -> Iterator[Batch]:
        for key, source in sources.items():
            for batch in make_eval_batches(
                source.samples,
                source.transform,
                config.batch_size,
                process_index=jax.process_index(),
                process_count=jax.process_count(),
            ):
                yield dataclasses.replace(batch, source=f"{part}.{key}")

    return batches


def evenly(samples: SampleSource, most: int) -> list[Sample]:
    """At most so many samples, evenly spaced; all if `most` is 0."""
    count = min(len(samples), most) if most else len(samples)
    return [samples[i * len(samples) // count] for i in range(count)]


def told_of(
    train: Mapping[str, Source], validation: Mapping[str, Source], test: Mapping[str, Source]
) -> tuple[str, Mapping[str, Source]]:
    """The part of the data that tells how good a stage became: the test data if there are any."""
    parts = {"test": test, "validation": validation, "train": train}
    return next((part, sources) for part, sources in parts.items() if sources)


def lacking(name: str, config: ConfigDict, what: str = "") -> UserError:
    """That a stage has nothing to train on, or nothing with certain values."""
    wanted = {config.modality} if config.modality else {*config.inputs, *config.targets}
    train = config.data.train.items()
    fitting = [key for key, s in train if not s.modalities or wanted & {*s.modalities}]
    keys = " or ".join(f"data.train.{key}.source" for key in fitting)
    return UserError(
        f"{name}: there is no data {f'with {what} ' if what else ''}to train on; set "
        f"{keys or 'data.train in the recipe'} to a dataset's name or a JSON-lines file"
    )


def values(name: str, config: ConfigDict, part: str, modality: Modality) -> Iterator[Any]:
    """What the samples of a stage's data are made of for one modality, as it is in the data.

    Raises:
      UserError: see `open_sources`.
    """
    for samples, _, _ in _open(name, config, part, (modality,), None).values():
        for index in range(len(samples)):
            yield samples[index].value(modality.value)


def places(config: ConfigDict, part: str, modalities: Sequence[Modality]) -> dict[str, str]:
    """The sources of a part that may have some of these modalities; "" where a path lacks."""
    return {
        f"data.{part}.{key}.source": spec.source
        for key, spec in config.data[part].items()
        if _chosen(spec, modalities)
    }


def _chosen(spec: ConfigDict, modalities: Sequence[Modality]) -> tuple[Modality, ...]:
    """Those that a source is asked for."""
    return tuple(m for m in modalities if not spec.modalities or m.name in spec.modalities)
