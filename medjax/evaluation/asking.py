"""Puts the questions of a source to a model and scores its answers, batch by batch."""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from ml_collections import ConfigDict
from tqdm import tqdm

from medjax.data import setup
from medjax.data.batching import ExampleTransform, make_eval_batches
from medjax.data.example import Example
from medjax.data.tokenizer import Tokenizer
from medjax.decoding.config import DecodeConfig
from medjax.decoding.decode import Decoder
from medjax.evaluation.predictions import Prediction, from_example


class Examples(Protocol):
    """Examples by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...


class Questions:
    """A source with the answers taken away, so that they can't reach the model."""

    def __init__(self, source: Examples):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        return dataclasses.replace(self._source[index], suffix="")


class Asker:
    """Asks one model after another of the same sizes; decoding is compiled once.

    Attributes:
      transform: examples to rows of a batch, as in training.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        config: ConfigDict,
        transform: ExampleTransform | None = None,
    ):
        """config: of the stage; its `decode`, `evaluate.batch_size`, `evaluate.group`, `seed`.

        transform: made from the config if None.
        """
        self.transform = transform or setup.make_transform(config, tokenizer)
        self._tokenizer, self._config = tokenizer, config
        self._decoder: Decoder | None = None

    def __call__(
        self,
        model: Any,
        source: Examples,
        name: str,
        *,
        asked: Examples | None = None,
        transform: ExampleTransform | None = None,
        keep_bar: bool = True,
    ) -> list[Prediction]:
        """A model's answers to every example of a source, scored.

        A model that lies on devices of several processes is asked by all of them together, and each
        gets all answers.

        Args:
          model: a PaliGemma. Its arrays are used where they lie, and let go of at the end.
          name: of the model, for the progress bar.
          asked: what it is asked in place of the source's examples, one for each.
          transform: in place of `self.transform`.
          keep_bar: whether the bar stays when all is answered.
        """
        config, tokenizer = self._config, self._tokenizer
        if self._decoder is None:
            decode = DecodeConfig(**config.decode.to_dict())
            ids = {"eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id}
            self._decoder = Decoder(model, decode, **ids)
        else:
            self._decoder.state = nnx.state(model)
        size = config.evaluate.batch_size
        questions = Questions(source if asked is None else asked)
        batches = make_eval_batches(questions, transform or self.transform, size)
        predictions: list[Prediction] = []
        with tqdm(
            total=len(source), desc=f"answers of {name}", unit="question", leave=keep_bar
        ) as bar:
            for batch in batches:
                first = len(predictions)
                keys = ("image", "tokens", "mask_ar", "mask_input")
                prompts = (jnp.asarray(batch.arrays[key]) for key in keys)
                rows = first + jnp.arange(size)
                answers = self._decoder(*prompts, seed=config.seed, rows=rows)
                tokens, log_probs, lengths = map(
                    _whole, (answers.tokens, answers.log_prob, answers.lengths)
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
                bar.update(len(predictions) - first)
        self._decoder.state = nnx.State({})  # training gives its arrays away at its next step
        return predictions


def _whole(array: jax.Array) -> np.ndarray:
    """An array's values, also where parts of it lie with other processes."""
    if not array.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)
