"""Batches of samples: each of one source, and the same whoever asks for them."""

import json

import numpy as np
import pytest

from medjax.data.samples import Sample
from medjax.data.samples.batching import make_eval_batches, make_train_iterator
from medjax.errors import UserError


class Source:
    names = ("number",)
    faults: dict = {}

    def __init__(self, count, name):
        self.count, self.name = count, name

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return Sample(f"{self.name}{index}", {"number": index})


def plain(sample, rng=None):
    drawn = 0.0 if rng is None else rng.random()
    return {
        "number": np.asarray(sample.value("number"), np.int32),
        "drawn": np.asarray(drawn),
        "id": np.asarray(sample.id),
        "truncated": np.asarray(sample.value("number") == 1),
    }


def other(sample, rng=None):
    row = plain(sample, rng)
    return {("twice" if name == "number" else name): value for name, value in row.items()}


def make(index=0, count=1, sources=None, **options):
    sources = sources or {"b": (Source(10, "b"), 1, other), "a": (Source(7, "a"), 3, plain)}
    options = {"batch_size": 6, "seed": 5, "augment": True} | options
    return make_train_iterator(sources, process_index=index, process_count=count, **options)


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def joined(shares):
    """One batch of processes' parts, as something to compare."""
    [source] = {share.source for share in shares}
    arrays = {
        name: np.concatenate([share.arrays[name] for share in shares]).tolist()
        for name in shares[0].arrays
    }
    ids = sum((share.ids for share in shares), ())
    return source, ids, arrays, np.concatenate([s.truncated for s in shares]).tolist()


def test_a_batch_is_of_one_source_and_sources_come_by_weight():
    batches = take(make(), 16)
    for batch in batches:
        assert {i[0] for i in batch.ids} == {batch.source}
        assert set(batch.arrays) == {"drawn", "number" if batch.source == "a" else "twice"}
        assert batch.arrays["drawn"].shape == (6,)
        assert batch.valid.all()
        [name] = set(batch.arrays) - {"drawn"}
        assert batch.truncated.tolist() == (batch.arrays[name] == 1).tolist()
    names = [batch.source for batch in batches]
    # Evenly, not only on the whole.
    assert all(sorted(names[i : i + 4]) == ["a", "a", "a", "b"] for i in range(0, 16, 4))
    assert len({x for batch in batches for x in batch.arrays["drawn"].tolist()}) == 16 * 6


def test_each_epoch_of_a_source_has_each_sample_once():
    ids = [i for batch in take(make(), 28) for i in batch.ids if batch.source == "a"]
    assert len(ids) == 21 * 6
    epochs = [ids[k : k + 7] for k in range(0, len(ids), 7)]
    assert all(len(set(epoch)) == 7 for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 3


@pytest.mark.parametrize(("before", "after"), [(1, 2), (3, 1), (2, 3)])
def test_a_state_continues_on_another_number_of_processes(before, after):
    expected = [joined([batch]) for batch in take(make(), 9)]
    first = [make(index, before) for index in range(before)]
    taken = list(zip(*(take(part, 4) for part in first), strict=True))
    assert [joined(shares) for shares in taken] == expected[:4]
    states = [json.loads(json.dumps(part.get_state())) for part in first]
    assert all(state == states[0] for state in states)
    second = [make(index, after) for index in range(after)]
    for part in second:
        part.set_state(states[0])
    rest = list(zip(*(take(part, 5) for part in second), strict=True))
    assert [joined(shares) for shares in rest] == expected[4:]


def test_workers_change_nothing():
    threads, workers = make(), make(workers=1)
    assert [joined([b]) for b in take(workers, 5)] == [joined([b]) for b in take(threads, 5)]
    workers.close()


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"batch_size": 12}, "batch_size"),
        ({"seed": 6}, "seed"),
        ({"sources": {"a": (Source(7, "a"), 3, plain)}}, "sources"),
        ({"sources": {"a": (Source(7, "a"), 2, plain), "b": (Source(10, "b"), 1, other)}},
         "weights"),
    ],
)  # fmt: skip
def test_a_state_of_another_stream_is_refused(changes, key):
    with pytest.raises(UserError, match=f"had {key} "):
        make(**changes).set_state(make().get_state())


def test_evaluation_is_one_pass_in_order():
    for count in (1, 2):
        parts = [
            list(make_eval_batches(
                Source(7, "a"), plain, 4, process_index=p, process_count=count
            ))
            for p in range(count)
        ]  # fmt: skip
        whole = [joined(shares) for shares in zip(*parts, strict=True)]
        assert [ids for _, ids, _, _ in whole] == [("a0", "a1", "a2", "a3"), ("a4", "a5", "a6", "")]
        assert whole[-1][2]["number"] == [4, 5, 6, 6]
        valid = np.concatenate([part[-1].valid for part in parts])
        assert valid.tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"a": (Source(0, "a"), 1, plain)}, "'a' has no examples"),
        ({"a": (Source(3, "a"), 0, plain)}, "weight of dataset 'a'"),
    ],
)
def test_what_cannot_be_batched_is_refused(sources, message):
    with pytest.raises(UserError, match=message):
        make(sources=sources)
    with pytest.raises(UserError, match="divided among 4"):
        make(0, 4)
