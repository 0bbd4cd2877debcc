"""Streams of rows with grain: the same order on one process, on many, and after a restart.

Position i in the endless stream of a source's rows is a function of (seed, source, i) alone. A
batch is cut into n equal parts for n processes, so that the parts side by side are the batch of a
single process. A checkpoint is one number, the next position, and so may be continued with another
number of processes or of workers.
"""

import dataclasses
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from medjax.errors import UserError

Row = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Batch:
    """What a step needs, and apart from it what people need to know about it.

    Attributes:
      arrays: for the device, stacked rows, [B, ...].
      ids: of the examples, for messages and tables; "" for padding.
      truncated: bool [B], of whose text something was cut off.
      valid: bool [B], false for rows that only fill up the last batch of an evaluation.
      source: that all of it comes from; "" where sources share a batch.
    """

    arrays: dict[str, np.ndarray]
    ids: tuple[str, ...]
    truncated: np.ndarray
    valid: np.ndarray
    source: str = ""


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

    @property
    def epoch(self) -> float:
        """Examples given so far over the examples that the sources have together."""
        return self._next_example / sum(self._order["sources"].values())

    def get_state(self) -> dict[str, Any]:
        """Where the stream stands, ready for JSON; the same in every process."""
        return {"next_example": self._next_example, "order": self._order}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues where `state` was taken.

        Raises:
          UserError: the seed, the sources or their weights are not those of the state, so that the
            stream would be another one.
        """
        for key in state["order"] | self._order:
            ours, theirs = self._order.get(key), state["order"].get(key)
            if theirs != ours:
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


def shuffled(source: Any, seed: int, name: str) -> grain.MapDataset:
    """A source's examples without end, in a new order in each epoch.

    The name goes into the order, so that two sources of one length are not shuffled alike.
    """
    return grain.MapDataset.source(source).shuffle(source_seed(seed, name)).repeat()


def mapped(
    examples: grain.MapDataset, transform: Callable[..., Row], seed: int, augment: bool
) -> grain.MapDataset:
    """Rows of examples; with `augment` of `transform(example, rng)`, a function of the position."""
    # To be mapped before it is cut, so that positions count from the stream's beginning.
    return examples.random_map(transform, seed=seed) if augment else examples.map(transform)


def check_sources(sources: Mapping[str, tuple[Any, float]], seed: int) -> None:
    """Raises UserError if there is nothing to train on, or a weight or the seed cannot be."""
    if not sources:
        raise UserError("There is no data to train on: name a dataset in the config.")
    for name in sorted(sources):
        source, weight = sources[name]
        if len(source) == 0:
            raise UserError(f"The dataset {name!r} has no examples.")
        if not weight > 0 or not np.isfinite(weight):
            raise UserError(f"The weight of dataset {name!r} must be above 0, not {weight}.")
    if seed < 0:
        raise UserError(f"The seed must be 0 or more, not {seed}.")


def order_of(sources: Mapping[str, tuple[Any, float]], seed: int) -> dict[str, Any]:
    """What the order of a stream depends on, ready for JSON."""
    names = sorted(sources)  # so that the order in a config does not matter
    return {
        "seed": int(seed),
        "sources": {name: len(sources[name][0]) for name in names},
        "weights": {name: float(sources[name][1]) for name in names},
    }


def mixed(
    parts: Mapping[str, grain.MapDataset], order: Mapping[str, Any], names: Sequence[str] = ()
) -> grain.MapDataset:
    """Streams, or those of some names, interleaved evenly by the weights of `order_of`."""
    weights = {name: w for name, w in order["weights"].items() if not names or name in names}
    streams = [parts[name] for name in weights]
    return grain.MapDataset.mix(streams, list(weights.values())) if len(streams) > 1 else streams[0]


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of a stream that has sources of its own.

    Attributes:
      names: of its sources.
      batches: how many of the stream's it is.
    """

    names: tuple[str, ...]
    batches: int


class InPhases:
    """Streams one after another, as one.

    Each goes on from its own beginning; the last has no end.
    """

    def __init__(self, streams: Sequence[grain.MapDataset], lengths: Sequence[int]):
        """`lengths` of all streams but the last, in positions."""
        self._streams = streams
        self._starts = np.cumsum([0, *lengths])

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> Any:
        phase = int(np.searchsorted(self._starts, index, "right")) - 1
        return self._streams[phase][index - int(self._starts[phase])]


def one_pass(
    source: Any,
    transform: Callable[[Any], Row],
    batch_size: int,
    *,
    stack: Callable[[Sequence[Row]], Row],
    blank: Callable[[Row], Row],
    process_index: int,
    process_count: int,
    workers: int,
    prefetch: int,
) -> Iterator[Batch]:
    """All of a source in its order, in batches that have the full size.

    Args:
      stack: makes a batch's arrays of rows.
      blank: of a repeated row makes one that fills up; its id, `truncated` and `valid` are seen to.

    The rest as in `batching.make_eval_batches`.
    """
    local_size = local_batch_size(batch_size, process_index, process_count)
    count = len(source)
    padded = -(-count // batch_size) * batch_size

    def row(index: int) -> Row:
        values = transform(source[min(index, count - 1)])
        values["valid"] = np.asarray(index < count)
        if index >= count:
            values = blank(values)
            values["truncated"] = np.asarray(False)
            values["id"] = np.asarray("")
        return values

    batches = grain.MapDataset.range(padded).map(row).batch(local_size, batch_fn=stack)
    return _each(read_ahead(batches[process_index::process_count], workers, prefetch))


def stack(rows: Sequence[Row], source: str = "") -> Row:
    """Rows of one kind as the arrays of a batch, which is of `source`."""
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return batch | {"source": np.asarray(source)}


def local_batch_size(batch_size: int, process_index: int, process_count: int) -> int:
    """How many rows of a batch are this process'.

    Raises:
      UserError: the batch cannot be divided.
    """
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


def source_seed(seed: int, name: str) -> int:
    """A seed for each source, so that two of the same length are not shuffled alike."""
    return int(np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(1)[0])


def read_ahead(batches: grain.MapDataset, workers: int, prefetch: int) -> grain.IterDataset:
    """Batches that threads, or so many processes, prepare before they are asked for."""
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


def _to_batch(rows: Row) -> Batch:
    rows = {name: np.asarray(value) for name, value in rows.items()}
    ids = tuple(rows.pop("id").tolist())
    truncated = rows.pop("truncated")
    valid = rows.pop("valid", np.ones(len(ids), bool))
    source = str(rows.pop("source", ""))
    return Batch(arrays=rows, ids=ids, truncated=truncated, valid=valid, source=source)
