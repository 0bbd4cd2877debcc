"""The stream of examples depends on nothing but the seed and the position."""

import itertools
import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from medjax.data.batching import (
    ExampleTransform,
    Phase,
    make_eval_batches,
    make_train_iterator,
)
from medjax.data.example import Example
from medjax.data.prompts import TextTransform, pack
from medjax.data.tokenizer import train_tokenizer
from medjax.errors import UserError

LENGTH = 16


class Source:
    """Examples "name/0", "name/1", ...; `bad` is the index of one that cannot be read."""

    def __init__(self, count, name="a", bad=None):
        self.count, self.name, self.bad = count, name, bad

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index == self.bad:
            raise UserError(f"{self.name}.jsonl:{index + 1}: the image is corrupt.")
        return Example(
            id=f"{self.name}/{index}",
            pixels=np.full((2, 3, 3), index, np.uint8),
            prefix=f"what is {index}",
            suffix="y" * (index % 7),
        )


def image_of(example):
    return example.image


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_tokenizer(
        ["what is 1"], tmp_path_factory.mktemp("tokenizer") / "tokenizer.model", 300
    )


@pytest.fixture(scope="module")
def transform(tokenizer):
    return ExampleTransform(image_of, TextTransform(tokenizer, LENGTH))


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def ids(batches):
    return [i for batch in batches for i in batch.ids]


def assert_equal(batch, other):
    assert batch.ids == other.ids
    np.testing.assert_array_equal(batch.truncated, other.truncated)
    assert batch.arrays.keys() == other.arrays.keys()
    for name, array in batch.arrays.items():
        np.testing.assert_array_equal(array, other.arrays[name])


def test_batch_holds_what_the_transforms_make(transform, tokenizer):
    source = Source(200)
    [batch] = take(make_train_iterator({"a": (source, 1)}, transform, batch_size=5, seed=1), 1)
    assert set(batch.arrays) == {"image", "tokens", "mask_ar", "mask_loss", "mask_input"}
    assert batch.arrays["image"].dtype == np.float32
    assert batch.arrays["image"].shape == (5, 2, 3, 3)
    assert batch.valid.all()
    for row, name in enumerate(batch.ids):
        index = int(name.split("/")[1])
        example = source[index]
        packed = pack(tokenizer, example.prefix, example.suffix, LENGTH)
        for key in ("tokens", "mask_ar", "mask_loss", "mask_input"):
            assert batch.arrays[key].dtype == np.int32
            np.testing.assert_array_equal(batch.arrays[key][row], getattr(packed, key))
        assert batch.truncated[row] == packed.truncated
        np.testing.assert_allclose(batch.arrays["image"][row], example.image / 127.5 - 1, atol=1e-6)


def test_images_that_are_scaled_already_are_left(tokenizer):
    def scaled(example):
        return np.full((2, 2, 3), 0.25, np.float32)

    transform = ExampleTransform(scaled, TextTransform(tokenizer, LENGTH))
    [batch] = take(make_train_iterator({"a": (Source(3), 1)}, transform, batch_size=2, seed=0), 1)
    assert batch.arrays["image"].dtype == np.float32
    assert (batch.arrays["image"] == 0.25).all()


def test_each_epoch_shows_each_example_once_in_a_new_order(transform):
    iterator = make_train_iterator({"a": (Source(12), 1)}, transform, batch_size=4, seed=0)
    epochs = [ids(take(iterator, 3)) for _ in range(4)]
    everything = {f"a/{i}" for i in range(12)}
    assert all(set(epoch) == everything for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert epochs[0] != sorted(epochs[0])


def test_a_dataset_smaller_than_the_batch(transform):
    iterator = make_train_iterator({"a": (Source(3), 1)}, transform, batch_size=8, seed=0)
    stream = ids(take(iterator, 3))
    for epoch in range(8):
        assert set(stream[3 * epoch : 3 * epoch + 3]) == {"a/0", "a/1", "a/2"}


def test_order_is_the_seeds(transform):
    def stream(seed, **options):
        sources = {"a": (Source(50), 1), "b": (Source(50, "b"), 1)}
        iterator = make_train_iterator(sources, transform, batch_size=10, seed=seed, **options)
        return ids(take(iterator, 6))

    assert stream(3) == stream(3, prefetch=0) == stream(3, prefetch=5)
    assert stream(3) != stream(4)
    # Two sources of one length are not shuffled alike.
    a, b = ([i[2:] for i in stream(3) if i[0] == name] for name in "ab")
    assert a[:20] != b[:20]


def test_weights_are_shares_of_the_examples(transform):
    sources = {"b": (Source(5, "b"), 1), "a": (Source(100), 3)}
    iterator = make_train_iterator(sources, transform, batch_size=8, seed=0)
    stream = ids(take(iterator, 25))
    assert sum(i[0] == "a" for i in stream) == 150
    # Evenly: each batch has its share, not only the whole.
    assert all(sum(i[0] == "a" for i in stream[k : k + 8]) == 6 for k in range(0, 200, 8))
    reordered = dict(reversed(sources.items()))
    again = make_train_iterator(reordered, transform, batch_size=8, seed=0)
    assert ids(take(again, 25)) == stream


def test_phases_come_one_after_another(transform):
    sources = {"a": (Source(6), 1), "b": (Source(8, "b"), 3), "c": (Source(5, "c"), 1)}
    phases = (Phase(("a",), 3), Phase(("b", "c"), 4), Phase(("a", "c"), 1))

    def make(index=0, count=1):
        return make_train_iterator(
            sources, transform, batch_size=4, seed=2, phases=phases,
            process_index=index, process_count=count,
        )  # fmt: skip

    batches = take(make(), 12)
    first, second, third = ids(batches[:3]), ids(batches[3:7]), ids(batches[7:])
    assert {i[0] for i in first} == {"a"}
    assert first[:6] != first[6:]  # in a new order each time
    assert len(set(first[:6])) == len(set(first[6:])) == 6
    assert sum(i[0] == "b" for i in second) == 12
    assert sum(i[0] == "c" for i in second) == 4
    assert {i[0] for i in third} == {"a", "c"}  # the last has no end

    # Continued in the middle of the second, on two processes.
    iterator = make()
    take(iterator, 5)
    state = json.loads(json.dumps(iterator.get_state()))
    halves = [make(index, 2) for index in range(2)]
    for half in halves:
        half.set_state(state)
    for batch in batches[5:9]:
        assert sum((next(half).ids for half in halves), ()) == batch.ids

    with pytest.raises(UserError, match="had phases "):
        make_train_iterator(sources, transform, batch_size=4, seed=2).set_state(state)


@pytest.mark.parametrize("count", [2, 3])
def test_processes_side_by_side_are_one(transform, count):
    def make(index, count):
        sources = {"a": (Source(10), 2), "b": (Source(7, "b"), 1)}
        return make_train_iterator(
            sources, transform, batch_size=6, seed=5, process_index=index, process_count=count
        )

    whole = make(0, 1)
    parts = [make(index, count) for index in range(count)]
    for _ in range(5):
        batch = next(whole)
        shares = [next(part) for part in parts]
        assert sum((share.ids for share in shares), ()) == batch.ids
        tokens = np.concatenate([share.arrays["tokens"] for share in shares])
        np.testing.assert_array_equal(tokens, batch.arrays["tokens"])


@pytest.mark.parametrize(("before", "after"), [(1, 1), (1, 2), (2, 1), (2, 3)])
def test_a_state_continues_on_another_number_of_processes(transform, before, after):
    def make(index, count):
        sources = {"a": (Source(10), 2), "b": (Source(7, "b"), 1)}
        return make_train_iterator(
            sources, transform, batch_size=6, seed=5, process_index=index, process_count=count
        )

    expected = take(make(0, 1), 9)
    first = [make(index, before) for index in range(before)]
    for part in first:
        take(part, 4)
    states = [json.loads(json.dumps(part.get_state())) for part in first]
    assert all(state == states[0] for state in states)

    second = [make(index, after) for index in range(after)]
    take(second[0], 2)  # whatever was read before is forgotten
    for part in second:
        part.set_state(states[0])
    for batch in expected[4:]:
        shares = [next(part) for part in second]
        assert sum((share.ids for share in shares), ()) == batch.ids
        images = np.concatenate([share.arrays["image"] for share in shares])
        np.testing.assert_array_equal(images, batch.arrays["image"])


def test_a_state_continues_with_another_batch_size(transform):
    def make(batch_size):
        return make_train_iterator({"a": (Source(10), 1)}, transform, batch_size=batch_size, seed=5)

    small, large = make(2), make(6)
    stream = ids(take(make(2), 30))
    take(small, 5)
    large.set_state(small.get_state())
    assert ids(take(large, 4)) == stream[10:34]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"seed": 6}, "seed"),
        ({"sources": {"a": (Source(11), 1)}}, "sources"),
        ({"sources": {"b": (Source(10), 1)}}, "sources"),
        ({"sources": {"a": (Source(10), 2)}}, "weights"),
    ],
)
def test_a_state_of_another_stream_is_refused(transform, changes, key):
    options = {"sources": {"a": (Source(10), 1)}, "seed": 5}
    state = make_train_iterator(transform=transform, batch_size=2, **options).get_state()
    other = make_train_iterator(transform=transform, batch_size=2, **(options | changes))
    with pytest.raises(UserError, match=f"had {key} "):
        other.set_state(state)


def test_workers_change_nothing_and_bring_errors_back(transform):
    def make(workers, bad=None):
        sources = {"a": (Source(9, bad=bad), 1)}
        return make_train_iterator(sources, transform, batch_size=4, seed=0, workers=workers)

    threads, workers = make(0), make(2)
    take(threads, 3)
    workers.set_state(threads.get_state())
    for _ in range(4):
        assert_equal(next(workers), next(threads))
    workers.close()

    bad = make(1, bad=3)
    with pytest.raises(UserError, match=r"a\.jsonl:4: the image is corrupt"):
        take(bad, 3)
    bad.close()


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_bad_example_stops_with_its_own_error(transform, prefetch):
    options = {"batch_size": 4, "prefetch": prefetch}
    iterator = make_train_iterator({"a": (Source(9, bad=3), 1)}, transform, seed=0, **options)
    with pytest.raises(UserError, match=r"a\.jsonl:4: the image is corrupt"):
        take(iterator, 3)
    with pytest.raises(UserError, match=r"a\.jsonl:4: the image is corrupt"):
        list(make_eval_batches(Source(9, bad=3), transform, **options))


def test_reading_ahead_overlaps_with_the_step(transform):
    def slow(example):
        time.sleep(0.02)
        return transform(example)

    iterator = make_train_iterator({"a": (Source(9), 1)}, slow, batch_size=5, seed=0, prefetch=2)
    next(iterator)
    time.sleep(0.4)  # two batches take 0.1 s each in their threads
    start = time.monotonic()
    next(iterator)
    assert time.monotonic() - start < 0.08
    iterator.close()


def test_close_can_be_followed_by_more(transform):
    iterator = make_train_iterator({"a": (Source(9), 1)}, transform, batch_size=2, seed=0)
    stream = ids(
        take(make_train_iterator({"a": (Source(9), 1)}, transform, batch_size=2, seed=0), 6)
    )
    got = ids(take(iterator, 3))
    iterator.close()
    assert got + ids(take(iterator, 3)) == stream


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_is_one_pass_in_order(transform, workers):
    batches = list(make_eval_batches(Source(7), transform, 3, workers=workers))
    assert [batch.ids for batch in batches] == [
        ("a/0", "a/1", "a/2"),
        ("a/3", "a/4", "a/5"),
        ("a/6", "", ""),
    ]
    assert [batch.valid.tolist() for batch in batches] == [
        [True] * 3,
        [True] * 3,
        [True, False, False],
    ]
    last = batches[-1]
    assert last.arrays["tokens"].shape == (3, LENGTH)
    assert last.arrays["mask_loss"].sum(axis=1).tolist()[1:] == [0, 0]
    assert not last.truncated[1:].any()
    assert "valid" not in last.arrays


def test_evaluation_on_processes_keeps_step(transform):
    whole = list(make_eval_batches(Source(9), transform, 4))
    parts = [
        list(make_eval_batches(Source(9), transform, 4, process_index=p, process_count=2))
        for p in range(2)
    ]
    assert len(parts[0]) == len(parts[1]) == len(whole) == 3
    for batch, *shares in zip(whole, *parts, strict=True):
        assert sum((share.ids for share in shares), ()) == batch.ids
    assert not parts[1][-1].valid.any()


def test_evaluation_of_nothing(transform):
    assert list(make_eval_batches(Source(0), transform, 4)) == []


def test_two_threads_may_evaluate_at_once(transform):
    def run(_):
        return ids(make_eval_batches(Source(20), transform, 4))

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(run, range(2))
    assert first == second == [f"a/{i}" for i in range(20)]


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        ({}, {}, "no data"),
        ({"a": (Source(0), 1)}, {}, "'a' has no examples"),
        ({"a": (Source(3), 0)}, {}, "weight of dataset 'a'"),
        ({"a": (Source(3), float("nan"))}, {}, "weight of dataset 'a'"),
        ({"a": (Source(3), 1)}, {"batch_size": 0}, "at least 1"),
        ({"a": (Source(3), 1)}, {"seed": -1}, "seed must be 0 or"),
        ({"a": (Source(3), 1)}, {"process_count": 3}, "divided among 3"),
    ],
)
def test_what_cannot_be_batched_is_refused(transform, sources, options, message):
    with pytest.raises(UserError, match=message):
        make_train_iterator(sources, transform, **({"batch_size": 4, "seed": 0} | options))


def test_evaluation_refuses_at_once(transform):
    with pytest.raises(UserError, match="divided among 3"):
        make_eval_batches(Source(3), transform, 4, process_count=3)
