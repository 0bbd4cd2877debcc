"""MaskGIT and ROAR against loops that are written out, step by step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from medjax.decoding.fourm import Known, Step, images, passes
from medjax.decoding.fourm.images import Steps

SCHEDULE = (4, 3)  # of the second sample's 5 tokens, the last step makes one
REPORT = ("report",)
GREEDY = {"num_steps": 2, "token_schedule": "linear", "temperature": 0.0}


@functools.partial(jax.jit, static_argnums=(0, 6))
def _run(function, state, reads, given, keys, steps, options):
    graphdef, state = state
    model = nnx.merge(graphdef, state)
    return function(model, reads, "tok", given, keys, steps, **dict(options))


@pytest.fixture(scope="module")
def run(model, config, known):
    """Completes an image from a report, by one of the two functions."""

    def run(function, counts=SCHEDULE, temperature=0.0, given=known["tok"], order=None, **options):
        report = {name: known[name] for name in REPORT}
        reads = passes.build(config, report, {}, [REPORT], jnp.zeros(0), {}, 2)
        counts = jnp.tile(jnp.array(counts)[:, None], (1, 2))
        keys = jax.random.split(jax.random.key(3), 2)
        steps = Steps(counts, jnp.full(counts.shape, temperature))
        if order is not None:
            function = functools.partial(function, order=order)
        result = _run(function, nnx.split(model), reads, given, keys, steps, tuple(options.items()))
        return jax.tree.map(np.asarray, result)

    return run


def written_out(plain, known, row, schedule, order=None, scale=None) -> np.ndarray:
    """Completes an image of a sample, the surest first, or in steps of given places."""
    tok = Known(*(array.copy() for array in known["tok"]))
    for step, count in enumerate(schedule):
        left = [int(place) for place in np.flatnonzero(~tok.valid[row])]
        if not left:
            break
        if order is not None:
            left = list(order[step])
        slots = [(place, 0) for place in left]
        found = plain(row, {"report": known["report"], "tok": tok}, "tok", slots)
        if scale is not None:
            base = plain(row, {"tok": tok}, "tok", slots)
            found = base + scale * (found - base)
        sure = found.max(axis=1) - np.log(np.exp(found).sum(axis=1))
        for i in np.argsort(-sure)[: count if order is None else None]:
            tok.tokens[row, left[i]], tok.valid[row, left[i]] = found[i].argmax(), True
    return tok.tokens[row]


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_maskgit_written_out(plain, generator, known, scale, row):
    step = Step("tok", conditions=REPORT, guidance=scale, **GREEDY)
    found = generator(known, [step])["tok"]
    assert found.tokens.dtype == jnp.int32
    assert found.valid.all()
    schedule = (4, 3) if row == 0 else (3, 2)
    wanted = written_out(plain, known, row, schedule, scale=None if scale == 1 else scale)
    np.testing.assert_array_equal(found.tokens[row], wanted)
    assert len(np.unique(wanted)) > 2


def test_what_is_given_of_an_image_stays(generator, known):
    step = Step("tok", num_steps=3, temperature=5.0, conditions=REPORT)
    found, given = generator(known, [step])["tok"], known["tok"]
    np.testing.assert_array_equal(found.tokens[given.valid], given.tokens[given.valid])
    complete = generator({**known, "tok": found}, [step], seed=1)["tok"]
    np.testing.assert_array_equal(complete.tokens, found.tokens)


def test_a_given_order(run, plain, known):
    order = np.tile(np.arange(9), (2, 1))
    found = run(images.maskgit, order=order)
    left = np.flatnonzero(~known["tok"].valid[0])
    # In its first step all are predicted, of which the order then chooses.
    slots = [(place, 0) for place in left]
    first = plain(0, {name: known[name] for name in ("report", "tok")}, "tok", slots)
    np.testing.assert_array_equal(found.tokens[0, left[:4]], first.argmax(axis=1)[:4])
    assert not np.array_equal(found.tokens, run(images.maskgit).tokens)


def test_steps_that_make_nothing_change_nothing(run):
    np.testing.assert_array_equal(
        run(images.maskgit, (0, 4, 0, 3, 0)).tokens, run(images.maskgit).tokens
    )


def test_part_of_an_image(generator, known):
    step = Step("tok", num_tokens=3, num_steps=2, conditions=REPORT)
    found = generator(known, [step])["tok"].valid
    np.testing.assert_array_equal(found.sum(axis=1), known["tok"].valid.sum(axis=1) + 3)


def test_roar_visits_every_place_once_in_an_order_of_its_own(run):
    nothing = Known(np.zeros((2, 9), np.int32), np.zeros((2, 9), bool))
    counts = np.eye(9, dtype=int).cumsum(axis=0)  # row k makes one token in each of k + 1 steps
    before, order = nothing, []
    for row in counts:
        now = run(images.roar, row, given=nothing, most=1)
        new = now.valid & ~before.valid
        np.testing.assert_array_equal(new.sum(axis=1), 1)
        assert (before.valid <= now.valid).all()
        np.testing.assert_array_equal(now.tokens[before.valid], before.tokens[before.valid])
        order.append(new.argmax(axis=1))
        before = now
    assert before.valid.all()
    first, second = np.array(order).T
    assert sorted(first) == sorted(second) == list(range(9))
    assert list(first) != list(second)
    assert list(first) != list(range(9))


@pytest.mark.parametrize("row", [0, 1])
def test_roar_written_out(run, plain, known, row):
    left = known["tok"].valid
    places = []
    for counts in ((4, 0), SCHEDULE):
        now = run(images.roar, counts, most=4)
        places.append(np.flatnonzero(now.valid[row] & ~left[row]))
        left = now.valid
    wanted = written_out(plain, known, row, SCHEDULE, order=places)
    np.testing.assert_array_equal(now.tokens[row], wanted)
    assert now.valid.all()
    assert len(np.unique(wanted)) > 2


def test_roar_draws_its_places_evenly(run):
    nothing = Known(np.zeros((2, 9), np.int32), np.zeros((2, 9), bool))
    keys = jax.random.split(jax.random.key(0), 900)
    order = jax.vmap(lambda key: jax.random.permutation(jax.random.fold_in(key, 0), 9))(keys)
    counts = np.bincount(np.asarray(order.argmin(axis=1)), minlength=9)
    # 100 each; five standard deviations are 47.
    assert (np.abs(counts - 100) < 47).all()
    found = run(images.roar, (2,), given=nothing, most=2)
    own = jax.random.split(jax.random.key(3), 2)
    for row, key in enumerate(own):
        ranks = np.asarray(jax.random.permutation(jax.random.fold_in(key, 0), 9))
        np.testing.assert_array_equal(np.flatnonzero(found.valid[row]), np.flatnonzero(ranks < 2))


@pytest.mark.parametrize("scheme", ["maskgit", "roar"])
def test_a_sample_does_not_depend_on_its_batch(generator, known, scheme):
    given = {name: known[name] for name in ("report", "tok")}
    step = Step("tok", scheme, num_steps=3, top_k=20, temperature=2.0, guidance=1.5)
    both = generator(given, [step], seed=4, rows=np.array([7, 3]))["tok"]
    one = {name: Known(*(array[1:] for array in pair)) for name, pair in given.items()}
    alone = generator(one, [step], seed=4, rows=np.array([3]))["tok"]
    np.testing.assert_array_equal(alone.tokens[0], both.tokens[1])
    other = generator(one, [step], seed=4, rows=np.array([4]))["tok"]
    assert not np.array_equal(other.tokens[0], both.tokens[1])
    assert not np.array_equal(
        generator(one, [step], seed=5, rows=np.array([3]))["tok"].tokens[0], both.tokens[1]
    )


def test_from_nothing_at_all(generator):
    nothing = {"tok": Known(np.zeros((2, 9), np.int32), np.zeros((2, 9), bool))}
    step = Step("tok", num_steps=3, temperature=0.0)
    found = generator(nothing, [step])["tok"]
    assert found.valid.all()
    np.testing.assert_array_equal(found.tokens[0], found.tokens[1])
    # An empty report is as good as none.
    empty = {**nothing, "report": Known(np.full((2, 4), 3, np.int32), np.zeros((2, 4), bool))}
    np.testing.assert_array_equal(generator(empty, [step])["tok"].tokens, found.tokens)
