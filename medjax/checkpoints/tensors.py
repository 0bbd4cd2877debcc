"""Checkpoints as lazily read arrays: what every foreign format is turned into, and made from.

A format's reader opens a checkpoint by its headers alone, renames and reshapes on paper, and checks
every name and shape against the model before a single weight is read. Weights then stream through,
one parameter at a time.
"""

import dataclasses
import functools
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import jax
import ml_dtypes
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from medjax.errors import UserError
from medjax.models import families, params
from medjax.models.config import PaliGemmaConfig
from medjax.models.families import ModelConfig
from medjax.models.variants import PADDED_VOCAB_SIZE, VOCAB_SIZE
from medjax.scaling import sharding

DTYPES = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}


@dataclasses.dataclass(frozen=True)
class LazyArray:
    """An array that is known by shape and dtype and read when asked for.

    Attributes:
      read: returns the array; it may be a read-only view of a file.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def astype(self, dtype: np.dtype | None) -> "LazyArray":
        """The same array in another dtype (unchanged for None)."""
        if dtype is None or dtype == self.dtype:
            return self
        return LazyArray(self.shape, dtype, lambda: self.read().astype(dtype))


def lazy(array: Any) -> LazyArray:
    """A NumPy or JAX array as a LazyArray; a JAX array stays on its device until read."""
    return LazyArray(tuple(array.shape), np.dtype(array.dtype), lambda: np.asarray(array))


Config = TypeVar("Config", bound=ModelConfig)


def abstract(config: ModelConfig, **kwargs: Any) -> Any:
    """The model of a config, nothing allocated; `kwargs` (dtype, param_dtype, remat) go to it."""
    create = families.of(config).create
    return nnx.eval_shape(lambda: create(config, rngs=nnx.Rngs(0), **kwargs))


@functools.cache
def specs(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter of a model, by medjax's name; nothing is allocated."""
    flat = params.flatten(abstract(config))
    return {name: tuple(leaf.shape) for name, leaf in flat.items()}


@dataclasses.dataclass(frozen=True)
class Checkpoint(Generic[Config]):
    """A model on disk or in memory: iterating yields (name, array), one at a time.

    Attributes:
      where: what error messages call it, usually its path.
      config: of the model.
      arrays: every parameter by medjax's name.
      tokenizer: its text tokenizer's file (sentencepiece, or of 4M WordPiece), if it has one.

    Raises:
      UserError: names or shapes differ from those of `config`.
    """

    where: str
    config: Config
    arrays: Mapping[str, LazyArray]
    tokenizer: pathlib.Path | None = None

    def __post_init__(self):
        check_specs(self.where, self.arrays, specs(self.config))

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        for name, array in self.arrays.items():
            yield name, array.read()

    def astype(self, dtype: np.dtype | None) -> "Checkpoint":
        """The same weights in another dtype (unchanged for None)."""
        arrays = {name: array.astype(dtype) for name, array in self.arrays.items()}
        return dataclasses.replace(self, arrays=arrays)

    def with_vocabulary(
        self: "Checkpoint[PaliGemmaConfig]", rows: int
    ) -> "Checkpoint[PaliGemmaConfig]":
        """The same model with the official padding of the vocabulary removed or added.

        Added rows repeat row 0, `<pad>`: their logits equal that of a token which is never an
        answer, so that they never win where it does not.

        Raises:
          UserError: for other numbers of rows than Gemma's with and without padding.
        """
        name, have = "language_model/embed_tokens", self.config.llm.vocab_size
        if rows == have:
            return self
        if {rows, have} != {VOCAB_SIZE, PADDED_VOCAB_SIZE}:
            raise UserError(
                f"{self.where}: the vocabulary has {have} rows and {rows} are asked for; only "
                f"Gemma's padding ({VOCAB_SIZE} or {PADDED_VOCAB_SIZE} rows) is changed on the way"
            )
        table = self.arrays[name]

        def resized() -> np.ndarray:
            values = table.read()
            added = np.broadcast_to(values[:1], (max(0, rows - have), values.shape[1]))
            return np.concatenate([values[:rows], added])

        llm = dataclasses.replace(self.config.llm, vocab_size=rows)
        resized_table = LazyArray((rows, table.shape[1]), table.dtype, resized)
        return dataclasses.replace(
            self,
            config=dataclasses.replace(self.config, llm=llm),
            arrays={**self.arrays, name: resized_table},
        )


def check_specs(
    where: str, arrays: Mapping[str, LazyArray], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises UserError unless `arrays` has exactly the expected names and shapes."""
    missing, unexpected = sorted(set(expected) - set(arrays)), sorted(set(arrays) - set(expected))
    if missing or unexpected:
        raise UserError(
            f"{where}: the model's parameters and the checkpoint's differ: "
            f"{len(missing)} missing {missing[:4]}, {len(unexpected)} unexpected {unexpected[:4]}"
        )
    for name, shape in expected.items():
        if tuple(arrays[name].shape) != tuple(shape):
            raise UserError(
                f"{where}: {name} has shape {tuple(arrays[name].shape)}, "
                f"the model config asks for {tuple(shape)}{_hint(name)}"
            )


def _hint(name: str) -> str:
    """What a shape that differs is most likely due to."""
    if name == "vision_tower/position_embedding":
        return (
            "; one row belongs to each image patch, so image_size or patch_size of the model "
            "config is not the checkpoint's"
        )
    if name == "language_model/embed_tokens":
        return "; correct llm.vocab_size of the model config"
    *_, kind, modality = ("", *name.split("/", 2)[-2:])
    if kind in ("embed_tokens", "lm_head"):
        return f"; correct vocab_size of modality {modality!r} in the model config"
    return ""


def differing(a: Checkpoint, b: Checkpoint) -> list[str]:
    """Names of the parameters that one of two checkpoints lacks, or has with other values."""
    return sorted(
        name
        for name in {*a.arrays, *b.arrays}
        if name not in a.arrays
        or name not in b.arrays
        or a.arrays[name].dtype != b.arrays[name].dtype
        or not np.array_equal(a.arrays[name].read(), b.arrays[name].read())
    )


def build(checkpoint: Checkpoint, *, mesh: Mesh | None = None, **kwargs: Any) -> Any:
    """The model of a checkpoint; `kwargs` (dtype, param_dtype, remat) go to it.

    It lies on `mesh`, no device of which ever holds more than its share, or on the first device.
    """
    model = abstract(checkpoint.config, **kwargs)
    return filled(model, iter(checkpoint), checkpoint.where, mesh)


def filled(
    model: nnx.Module, arrays: Iterable[tuple[str, Any]], where: str, mesh: Mesh | None
) -> Any:
    """An abstract model with real parameters; see `build`."""
    graphdef, state = nnx.split(model)
    if mesh is not None:
        state = sharding.laid_out(state, mesh)
    params.assign(state, arrays, where)
    return nnx.merge(graphdef, state)


def in_memory(
    config: Config,
    named: Mapping[str, jax.Array | np.ndarray],
    tokenizer: str | os.PathLike[str] | None = None,
    where: str = "the model",
) -> Checkpoint[Config]:
    """A checkpoint of arrays that are in memory already, as `params.flatten` names them."""
    return Checkpoint(
        where,
        config,
        {name: lazy(array) for name, array in named.items()},
        None if tokenizer is None else pathlib.Path(tokenizer),
    )
