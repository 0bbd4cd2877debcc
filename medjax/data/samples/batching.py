"""Samples to batches, each of one source: what a source does not have costs its batches nothing.

Every source has a stream of batches of its own, and the streams are interleaved by weight, batch by
batch; see `medjax.data.streams` for the order.
"""

import functools
from collections.abc import Callable, Iterator, Mapping

import grain

from medjax.data.samples.sample import Sample, SampleSource
from medjax.data.streams import (
    Batch,
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
    source_seed,
    stack,
)

Transform = Callable[..., Row]


def make_train_iterator(
    sources: Mapping[str, tuple[SampleSource, float, Transform]],
    *,
    batch_size: int,
    seed: int,
    augment: bool = False,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    prefetch: int = 2,
) -> TrainIterator:
    """Shuffled, endless batches for training; `source` of each says where all of it is from.

    Args:
      sources: name -> (samples, weight, transform: Sample -> row); weights are relative, in
        batches.

    The rest as in `medjax.data.batching.make_train_iterator`, and so are the errors. A checkpoint's
    state, too, but it belongs to one batch size.
    """
    weighted = {name: (source, weight) for name, (source, weight, _) in sources.items()}
    check_sources(weighted, seed)
    local_size = local_batch_size(batch_size, process_index, process_count)
    order = order_of(weighted, seed) | {"batch_size": int(batch_size)}

    def part(name: str) -> grain.MapDataset:
        """This process' part of each batch of a source."""
        source, _, transform = sources[name]
        rows = mapped(shuffled(source, seed, name), transform, source_seed(seed, name), augment)
        batches = rows.batch(
            local_size, drop_remainder=True, batch_fn=functools.partial(stack, source=name)
        )
        return batches[process_index::process_count]

    batches = mixed({name: part(name) for name in sources}, order)

    def build(start: int) -> grain.IterDataset:
        return read_ahead(batches[start // batch_size :], workers, prefetch)

    return TrainIterator(build, batch_size, order)


def make_eval_batches(
    source: SampleSource,
    transform: Callable[[Sample], Row],
    batch_size: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    prefetch: int = 2,
) -> Iterator[Batch]:
    """One pass over a source in its order, in batches that all have the full size.

    Rows that only fill up the last batch repeat its last sample; `valid` is false for them. The
    rest as in `medjax.data.batching.make_eval_batches`.
    """
    return one_pass(
        source,
        transform,
        batch_size,
        stack=stack,
        blank=dict,
        process_index=process_index,
        process_count=process_count,
        workers=workers,
        prefetch=prefetch,
    )
