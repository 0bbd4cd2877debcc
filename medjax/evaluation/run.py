"""Asks models the test questions and writes what came out: table, predictions, page and picture."""

import collections
import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from medjax.data import setup
from medjax.data.batching import make_eval_batches
from medjax.data.example import Example
from medjax.data.tokenizer import Tokenizer
from medjax.decoding.config import DecodeConfig
from medjax.decoding.decode import Decoder
from medjax.evaluation.baselines import Majority
from medjax.evaluation.html import write_html
from medjax.evaluation.parquet import write_parquet
from medjax.evaluation.picture import write_picture
from medjax.evaluation.predictions import Prediction, from_example, write_jsonl
from medjax.evaluation.table import Results, results
from medjax.evaluation.thumbnails import thumbnails
from medjax.files import write_whole

FILES = ("results.json", "results.md", "predictions.jsonl", "predictions.parquet",
         "predictions.html", "predictions.png")  # fmt: skip


class Questions:
    """A source with the answers taken away, so that they can't reach the model."""

    def __init__(self, source):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        return dataclasses.replace(self._source[index], suffix="")


class Images(Mapping[str, np.ndarray]):
    """A source's images by key, each read when it is asked for: one at a time is in memory."""

    def __init__(self, source):
        self._source = source
        self._places: dict[str, int] = {}
        for index in range(len(source)):
            example = source[index]
            self._places.setdefault(example.image_key or example.id, index)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def __getitem__(self, key: str) -> np.ndarray:
        return self._source[self._places[key]].image


def answer(
    model: Any, tokenizer: Tokenizer, source: setup.Joined, config: ConfigDict, name: str = "model"
) -> list[Prediction]:
    """A model's answers to every example of a source, scored."""
    decode = DecodeConfig(**config.decode.to_dict())
    decoder = Decoder(model, decode, eos_id=tokenizer.eos_id, pad_id=tokenizer.pad_id)
    transform = setup.make_transform(config, tokenizer)
    size = config.evaluate.batch_size
    predictions: list[Prediction] = []
    with tqdm(total=len(source), desc=f"answers of {name}", unit="question") as bar:
        for batch in make_eval_batches(Questions(source), transform, size):
            first = len(predictions)
            keys = ("image", "tokens", "mask_ar", "mask_input")
            prompts = (jnp.asarray(batch.arrays[key]) for key in keys)
            answers = decoder(*prompts, seed=config.seed, rows=first + jnp.arange(size))
            tokens, log_probs, lengths = (
                np.asarray(x) for x in (answers.tokens, answers.log_prob, answers.lengths)
            )
            for row in range(int(batch.valid.sum())):
                predictions.append(
                    from_example(
                        source[first + row],
                        tokenizer.decode(tokens[row, : lengths[row]].tolist()),
                        log_prob=float(log_probs[row]),
                        num_tokens=int(lengths[row]),
                        truncated=bool(batch.truncated[row]),
                        group_key=config.evaluate.group,
                    )
                )
            bar.update(int(batch.valid.sum()))
    return predictions


def majority(train: Sequence[Any], source: setup.Joined, group: str = "") -> list[Prediction]:
    """What always giving the training data's most frequent answer would score."""
    fitted = Majority.fit(part[i] for part in train for i in range(len(part)))
    return fitted.predict((source[i] for i in range(len(source))), group_key=group)


def write(
    folder: pathlib.Path,
    systems: Mapping[str, Sequence[Prediction]],
    source: setup.Joined,
    title: str,
    group: str = "",
) -> Results:
    """Writes `FILES`; predictions.jsonl and .png are of the last system, the others of all."""
    folder.mkdir(parents=True, exist_ok=True)
    table = results(systems, groups=f"{group or 'image'}s")
    images = Images(source)
    last = list(systems.values())[-1]
    write_whole(folder / "results.json", (json.dumps(table.to_dict(), indent=2) + "\n").encode())
    write_whole(folder / "results.md", (table.to_markdown() + "\n").encode())
    write_jsonl(folder / "predictions.jsonl", last)
    rows = collections.Counter(p.image_key for of_system in systems.values() for p in of_system)
    small = thumbnails(images, rows)
    write_parquet(folder / "predictions.parquet", systems, small)
    write_html(folder / "predictions.html", systems, small, title=title, summary=table)
    write_picture(folder / "predictions.png", last, images)
    return table
