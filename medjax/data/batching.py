"""Examples to batches for PaliGemma: see `streams` for their order.

Batch k is the positions [k * B, (k + 1) * B) of one stream of all sources, and so a checkpoint may
be continued with another batch size, but not if it has phases, which are whole batches.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import grain
import numpy as np

from medjax.data.augment import Augment
from medjax.data.example import Example
from medjax.data.prompts import TextTransform
from medjax.data.streams import (
    Batch,
    InPhases,
    Phase,
    Row,
    TrainIterator,
    check_sources,
    local_batch_size,
    mapped,
    mixed,
    one_pass,
    order_of,
    read_ahead,
    shuffled,
    stack,
)

__all__ = [
    "Batch",
    "ExampleTransform",
    "Phase",
    "TrainIterator",
    "make_eval_batches",
    "make_train_iterator",
]


class Source(Protocol):
    """Examples by index; safe to read from several threads."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


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
        """The row; a random variation of the example if a generator is given.

        It holds `image`, which becomes float32 [H, W, 3] in [-1, 1] in a batch; `tokens`,
        `mask_ar`, `mask_loss`, `mask_input`, int32 [T]; `id` and `truncated`.
        """
        image = self.image(example)
        if rng is not None and self.augment:
            image, suffix = self.augment(image, example.suffix, rng)
            example = dataclasses.replace(example, suffix=suffix)
        packed = self.text(example)._asdict()
        row = {name: np.asarray(value) for name, value in packed.items()}
        return row | {"image": image, "id": np.asarray(example.id)}


def make_train_iterator(
    sources: Mapping[str, tuple[Source, float]],
    transform: Callable[..., Row],
    *,
    batch_size: int,
    seed: int,
    phases: Sequence[Phase] = (),
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
      phases: of a curriculum: what comes first, second, ...; the last goes on for ever. None: all
        sources at once.
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
    check_sources(sources, seed)
    local_size = local_batch_size(batch_size, process_index, process_count)
    order = order_of(sources, seed)
    streams = {name: shuffled(source, seed, name) for name, (source, _) in sources.items()}
    if phases:
        order["phases"] = [[list(phase.names), phase.batches * batch_size] for phase in phases]
        parts = [mixed(streams, order, phase.names) for phase in phases]
        lengths = [phase.batches * batch_size for phase in phases[:-1]]
        examples = grain.MapDataset.source(InPhases(parts, lengths))
    else:
        examples = mixed(streams, order)

    def build(start: int) -> grain.IterDataset:
        rows = mapped(examples, transform, seed, augment)[start:]
        batches = rows.batch(local_size, drop_remainder=True, batch_fn=_stack)
        return read_ahead(batches[process_index::process_count], workers, prefetch)

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

    The last batch is filled up with rows whose `valid` is false and whose `mask_loss` is zero. With
    several processes each has the same number of batches, and its part of each as in training. The
    rest as in `make_train_iterator`; `source` may be empty, which gives no batch.
    """
    return one_pass(
        source,
        transform,
        batch_size,
        stack=_stack,
        blank=_without_loss,
        process_index=process_index,
        process_count=process_count,
        workers=workers,
        prefetch=prefetch,
    )


def _without_loss(row: Row) -> Row:
    return row | {"mask_loss": np.zeros_like(row["mask_loss"])}


def _stack(rows: Sequence[Row]) -> Row:
    """Stacks rows; images become float32 in [-1, 1] as in big_vision's `value_range(-1, 1)`."""
    batch = stack(rows)
    if batch["image"].dtype == np.uint8:
        batch["image"] = batch["image"].astype(np.float32) / 255.0 * 2.0 - 1.0
    return batch
