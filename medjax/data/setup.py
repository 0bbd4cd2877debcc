"""From a config's `data` to sources, tokenizer and transform."""

import dataclasses
import functools
import logging
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from medjax import cache
from medjax.data.augment import Augment
from medjax.data.batching import ExampleTransform
from medjax.data.example import SOURCE, Example
from medjax.data.image import ImageTransform
from medjax.data.medical.conditioning.settings import Settings
from medjax.data.prompts import TextTransform
from medjax.data.sources import Source, open_source
from medjax.data.text_lengths import long_texts, without_long_texts
from medjax.data.tokenizer import Tokenizer, train_tokenizer
from medjax.errors import UserError

_log = logging.getLogger(__name__)


def data_dir(config: ConfigDict) -> pathlib.Path:
    """Where built datasets are kept: `data.dir`, else $MEDJAX_DATA, else the user's cache."""
    path = config.data.dir or os.environ.get("MEDJAX_DATA")
    return pathlib.Path(path).expanduser() if path else cache.folder() / "data"


def conditioning(config: ConfigDict) -> Settings:
    """What `data.conditioning` says is done to medical datasets; the run's tokenizer counts."""
    settings = Settings(**config.data.conditioning.to_dict())
    if config.tokenizer and not settings.tokenizer:
        return dataclasses.replace(settings, tokenizer=config.tokenizer)
    return settings


def names_data(config: ConfigDict, part: str) -> bool:
    """Whether some source of a part has a name or a path."""
    return any(spec.source for spec in config.data[part].values())


def open_sources(config: ConfigDict, part: str) -> dict[str, tuple[Source, float]]:
    """The sources of `data.train`, `data.validation` or `data.test` with their weights, by name.

    Those whose `source` is empty are left out.
    """
    sources = {}
    for name, spec in config.data[part].items():
        if not spec.source:  # a place that a recipe keeps for one's own data
            continue
        path = pathlib.Path(spec.source).expanduser()
        source = _open(
            spec.source,
            path.stat().st_mtime_ns if path.is_file() else 0,
            split=spec.split,
            tasks=tuple(spec.tasks),
            modes=tuple(spec.modes),
            folder=spec.folder,
            manual_dir=config.data.manual_dir,
            image_root=spec.image_root,
            data_dir=data_dir(config),
            conditioning=conditioning(config),
            on_bad_example=config.data.on_bad_example,
        )
        sources[name] = (source, spec.weight)
    return sources


def fitting(
    sources: Mapping[str, tuple[Source, float]],
    config: ConfigDict,
    tokenizer: Tokenizer,
    where: str,
    *,
    answers: bool = True,
) -> dict[str, tuple[Source, float]]:
    """The sources, their texts measured: what is too long is told of, or is a bad row.

    Args:
      sources: by name.
      config: `data.on_long_text` says which of the two it is.
      tokenizer: of the texts.
      where: the sources are in the config, for messages.
      answers: whether the model reads answers, too.

    Raises:
      UserError: a row is bad in this way, and `data.on_bad_example` is "error".
    """
    text = TextTransform(tokenizer, config.text_length)
    if config.data.on_long_text == "error":
        policy = config.data.on_bad_example

        def fit(name: str, source: Source) -> Source:
            return without_long_texts(
                f"{where}.{name}", source, text, answers=answers, on_bad_example=policy
            )

        return {name: (fit(name, source), weight) for name, (source, weight) in sources.items()}
    for name, (source, _) in sources.items():
        if cut := sum(1 for _ in long_texts(source, text, answers=answers)):
            _log.warning(
                "%s.%s: %d of %d texts take more than text_length = %d tokens: their ends are cut.",
                where, name, cut, len(source), config.text_length,
            )  # fmt: skip
    return dict(sources)


@functools.cache
def _open(source: str, changed: int, **kwargs) -> Source:
    """Opens a source once: a file's images are all checked when it is opened.

    `changed` is when the file was, so that a new version of it is opened anew.
    """
    return open_source(source, **kwargs)


def check_group(sources: Mapping[str, tuple[Any, float]], group: str) -> None:
    """Raises UserError if the first example of a source has no key of that name."""
    for name, (source, _) in sources.items():
        if group and group not in (first := source[0]).extra:
            raise UserError(
                f"evaluate.group is {group!r}, but {first.id} of {name} has no such key; it has "
                f"{', '.join(first.extra) or 'none'}"
            )


class Joined:
    """Sources one after another, as one.

    Where they are several, ids begin with their names, "medpix/12", and `extra[SOURCE]` says
    them.
    """

    def __init__(self, sources: Mapping[str, tuple[Source, float]], limit: int = 0):
        """Takes at most `limit` evenly spaced examples of each source; 0 for all."""
        self._places = []
        for name, (source, _) in sources.items():
            named = name if len(sources) > 1 else ""
            count = min(len(source), limit) if limit else len(source)
            self._places += [(source, i * len(source) // count, named) for i in range(count)]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Example:
        source, place, name = self._places[index]
        example = source[place]
        if not name:
            return example
        extra = {**example.extra, SOURCE: name}
        return dataclasses.replace(example, id=f"{name}/{example.id}", extra=extra)


def texts(sources: Mapping[str, tuple[Source, float]]) -> Iterator[str]:
    """Every question and answer of the sources, for training a tokenizer."""
    for name in sorted(sources):
        source, _ = sources[name]
        for index in range(len(source)):
            example = source[index]
            yield example.prefix
            yield example.suffix


def make_tokenizer(config: ConfigDict, source_texts: Iterator[str]) -> Tokenizer:
    """The tokenizer that the config names, else a small one trained on the texts."""
    if config.tokenizer:
        return Tokenizer.load(pathlib.Path(config.tokenizer).expanduser())
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "tokenizer.model"
        return train_tokenizer(source_texts, path, vocab_size=config.tokenizer_vocab_size)


def make_transform(config: ConfigDict, tokenizer: Tokenizer) -> ExampleTransform:
    """Examples to rows of a batch, the same for training, evaluation and serving."""
    cache = config.data.image_cache_mib * 2**20
    return ExampleTransform(
        ImageTransform(config.image_size, cache_bytes=cache),
        TextTransform(tokenizer, config.text_length),
        Augment(**config.data.augment.to_dict()),
    )
