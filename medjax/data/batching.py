"""Examples to batches with grain: the same order on one process, on many, and after a restart.

Position i in the endless stream of training examples is a function of (seed, sources, weights, i)
alone. Batch k is the positions [k * B, (k + 1) * B); process p of n holds the p-th of n equal parts
of every batch, so that the parts side by side are the batch of a single process. A checkpoint is
one number, the next position, and so may be continued with another number of processes, of workers,
or another batch size.
"""

import dataclasses
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import grain
import numpy as np
from absl import flags

from medjax.data.augment import Augment
from medjax.data.example import Example
from medjax.data.prompts import TextTransform
from medjax.errors import UserError

Row = dict[str, np.ndarray]


class Source(Protocol):
    """Examples by index; safe to read from several threads."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


@dataclasses.dataclass(frozen=True)
class Batch:
    """What a step needs, and apart from it what people need to know about it.

    Attributes:
      arrays: for the device: `image` float32 [B, H, W, 3] in [-1, 1]; `tokens`, `mask_ar`,
        `mask_loss`, `mask_input` int32 [B, T].
      ids: of the examples, for messages and tables; "" for padding.
      truncated: bool [B], whose text was cut.
      valid: bool [B], false for rows that only fill up the last batch of an evaluation; their
        `mask_loss` is zero.
      source: of its examples, if all are of one.
    """

    arrays: dict[str, np.ndarray]
    ids: tuple[str, ...]
    truncated: np.ndarray
    valid: np.ndarray
    source: str = ""


class ExampleTransform:
    """Maps an Example to the row of a batch: the image's array and the packed text."""

    def __init__(
        self,
        image: Callable[[Example], np.ndarray],
        text: TextTransform,
        augment: Augment | None = None,
    ):
        """`image` gives uint8 [H, W, 3], or float32 [H, W, 3] in [-1, 1] without `augment`."""
        self.image = image
        self.text = text
        self.augment = augment

    def __call__(self, example: Example, rng: np.random.Generator | None = None) -> Row:
        """The row; a random variation of the example if a generator is given."""
        image = self.image(example)
        if rng is not None and self.augment:
            image, suffix = self.augment(image, example.suffix, rng)
            example = dataclasses.replace(example, suffix=suffix)
        packed = self.text(example)._asdict()
        row = {name: np.asarray(value) for name, value in packed.items()}
        return row | {"image": image, "id": np.asarray(example.id)}


class TrainIterator(Iterator[Batch]):
    """Endless batches of one process; `get_state` and `set_state` make it resumable."""

    def __init__(
        self, build: Callable[[int], grain.IterDataset], batch_size: int, order: dict[str, Any]
    ):
        self._build = build
        self._batch_size = batch_size
        self._order = order
        self._next_example = 0
        self._rows: grain.DatasetIterator | None = None

    def __next__(self) -> Batch:
        if self._rows is None:
            self._rows = iter(self._build(self._next_example))
        batch = _to_batch(next(self._rows))
        self._next_example += self._batch_size
        return batch

    def get_state(self) -> dict[str, Any]:
        """Where the stream stands, ready for JSON; the same in every process."""
        return {"next_example": self._next_example, "order": self._order}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues where `state` was taken.

        Raises:
          UserError: the seed, the sources or their weights are not those of the state, so that the
            stream would be another one.
        """
        for key, ours in self._order.items():
            if (theirs := state["order"].get(key)) != ours:
                raise UserError(
                    f"The checkpoint's data had {key} {theirs}, now it is {ours}: training cannot "
                    "continue on another stream of examples. Restore the setting, or start in "
                    "another workdir."
                )
        self.close()
        self._next_example = int(state["next_example"])

    def close(self) -> None:
        """Ends the threads and processes that read ahead."""
        if self._rows is not None:
            self._rows.close()
            self._rows = None


def make_train_iterator(
    sources: Mapping[str, tuple[Source, float]],
    transform: Callable[..., Row],
    *,
    batch_size: int,
    seed: int,
    augment: bool = False,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    prefetch: int = 2,
) -> TrainIterator:
    """Shuffled, endless, mixed batches for training.

    Every source is shuffled anew for each of its epochs, within which each example comes once; the
    sources are interleaved evenly according to their weights.

    Args:
      sources: name -> (examples, weight); weights are relative, in examples.
      transform: Example -> row, such as an `ExampleTransform`.
      batch_size: B of all processes together.
      seed: of the order, 0 or more.
      augment: call `transform(example, rng)`; the generator is a function of seed and position.
      process_index: this process.
      process_count: how many share each batch.
      workers: processes that read ahead; 0 for threads alone, which suffice where most of the time
        goes to code that releases the interpreter's lock (Pillow's decoders do). With workers,
        sources and transform must be picklable.
      prefetch: batches read ahead, by as many threads; 0 for none.

    Raises:
      UserError: no source, an empty one, a weight that is not positive, a negative seed, or a batch
        that cannot be divided among the processes. Errors in reading an example come out of the
        iterator.
    """
    names = sorted(sources)  # so that the order in a config does not matter
    if not names:
        raise UserError("There is no data to train on: name a dataset in the config.")
    for name in names:
        source, weight = sources[name]
        if len(source) == 0:
            raise UserError(f"The dataset {name!r} has no examples.")
        if not weight > 0 or not np.isfinite(weight):
            raise UserError(f"The weight of dataset {name!r} must be above 0, not {weight}.")
    if seed < 0:
        raise UserError(f"The seed must be 0 or more, not {seed}.")
    local_size = _local_batch_size(batch_size, process_index, process_count)

    shuffled = [
        grain.MapDataset.source(sources[name][0]).shuffle(_source_seed(seed, name)).repeat()
        for name in names
    ]
    weights = [float(sources[name][1]) for name in names]
    mixed = grain.MapDataset.mix(shuffled, weights) if len(names) > 1 else shuffled[0]

    def build(start: int) -> grain.IterDataset:
        # Mapped before it is cut, so that positions count from the stream's beginning.
        rows = mixed.random_map(transform, seed=seed) if augment else mixed.map(transform)
        rows = rows[start:]
        batches = rows.batch(local_size, drop_remainder=True, batch_fn=_stack)
        return _read_ahead(batches[process_index::process_count], workers, prefetch)

    order = {
        "seed": int(seed),
        "sources": {name: len(sources[name][0]) for name in names},
        "weights": dict(zip(names, weights, strict=True)),
    }
    return TrainIterator(build, batch_size, order)


def make_eval_batches(
    source: Source,
    transform: Callable[[Example], Row],
    batch_size: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    prefetch: int = 2,
) -> Iterator[Batch]:
    """One pass over a source in its order, in batches that all have the full size.

    The last batch is filled up with rows whose `valid` is false. With several processes each has
    the same number of batches, and its part of each as in training. The rest as in
    `make_train_iterator`; `source` may be empty, which gives no batch.
    """
    local_size = _local_batch_size(batch_size, process_index, process_count)
    count = len(source)
    padded = -(-count // batch_size) * batch_size

    def row(index: int) -> Row:
        values = transform(source[min(index, count - 1)])
        values["valid"] = np.asarray(index < count)
        if index >= count:  # a repeated row, for its shapes alone
            values["mask_loss"] = np.zeros_like(values["mask_loss"])
            values["truncated"] = np.asarray(False)
            values["id"] = np.asarray("")
        return values

    batches = grain.MapDataset.range(padded).map(row).batch(local_size, batch_fn=_stack)
    return _each(_read_ahead(batches[process_index::process_count], workers, prefetch))


def _local_batch_size(batch_size: int, process_index: int, process_count: int) -> int:
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, not {batch_size}.")
    if batch_size % process_count:
        raise UserError(
            f"A batch_size of {batch_size} cannot be divided among {process_count} processes; "
            "make it a multiple."
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"There is no process {process_index} among {process_count}.")
    return batch_size // process_count


def _source_seed(seed: int, name: str) -> int:
    """A seed for each source, so that two of the same length are not shuffled alike."""
    return int(np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(1)[0])


def _read_ahead(batches: grain.MapDataset, workers: int, prefetch: int) -> grain.IterDataset:
    options = grain.ReadOptions(num_threads=prefetch, prefetch_buffer_size=prefetch)
    ahead = batches.to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():  # grain's workers read its flags, also where no command did
            flags.FLAGS.mark_as_parsed()
        ahead = ahead.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return ahead


def _each(ahead: grain.IterDataset) -> Iterator[Batch]:
    rows = iter(ahead)
    try:
        yield from map(_to_batch, rows)
    finally:
        rows.close()


def _stack(rows: Sequence[Row]) -> Row:
    """Stacks rows; images become float32 in [-1, 1] as in big_vision's `value_range(-1, 1)`."""
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    if batch["image"].dtype == np.uint8:
        batch["image"] = batch["image"].astype(np.float32) / 255.0 * 2.0 - 1.0
    return batch


def _to_batch(rows: Row) -> Batch:
    rows = {name: np.asarray(value) for name, value in rows.items()}
    ids = tuple(rows.pop("id").tolist())
    truncated = rows.pop("truncated")
    valid = rows.pop("valid", np.ones(len(ids), bool))
    return Batch(arrays=rows, ids=ids, truncated=truncated, valid=valid)
