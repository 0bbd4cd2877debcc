"""Sequences written with cached keys and values, against the whole decoder without any."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from medjax.decoding.fourm import Generator, Known, Step, passes, sample_keys, sequences
from medjax.decoding.fourm.choosing import choose
from medjax.errors import UserError

CONDITIONS = ("tok", "photo", "prior")
START, STEPS, SEED = 5, 6, 104
HOT = 4.0  # the most probable token of so small a model repeats what it has read
BLANKS = {"prior": 0}
# Scale or weights, and what the unconditional pass reads.
GUIDANCE = {
    "none": (1.0, ()),
    "one": (2.5, ("tok",)),
    "several": ({"photo": 1.5, "tok": -0.5}, ("prior",)),
}


@functools.partial(jax.jit, static_argnums=(0, 5))
def _write(graphdef, state, reads, keys, temperature, eos_id):
    return sequences.write(
        nnx.merge(graphdef, state), reads, "report", keys, temperature, max_new_tokens=STEPS,
        start_id=START, eos_id=eos_id, keep_logits=True,
    )  # fmt: skip


def given(known: dict[str, Known]) -> dict[str, Known]:
    return {name: known[name] for name in CONDITIONS}


@pytest.fixture(scope="module")
def write(model, config, known, features):
    """Writes two reports from an image, a photo and a prior."""

    def run(guidance=1.0, unconditional=(), blanks=None, eos_id=None, temperature=HOT):
        step = Step(
            "report", "autoregressive", start_id=START, guidance=guidance,
            unconditional=unconditional,
        )  # fmt: skip
        reads, weights = step.passes(CONDITIONS)
        packed = passes.build(
            config, given(known), features, reads, jnp.array(weights), blanks or {}, 2
        )
        keys = jax.random.split(jax.random.key(0), 2)
        heat = jnp.full(2, temperature)
        return _write(*nnx.split(model), packed, keys, heat, eos_id)

    return run


@pytest.fixture
def uncached(plain, known, config):
    """The guided logits of a row's whole answer, from what each pass reads and its weight."""

    def run(row, ids, guidance, unconditional):
        slots = list(enumerate([START, *ids[:-1]]))

        def of(*names):
            return plain(row, {name: known[name] for name in names}, "report", slots)

        if guidance == 1:
            return of(*CONDITIONS)
        base = of(*unconditional)
        if isinstance(guidance, dict):
            return base + sum(w * (of(*unconditional, n) - base) for n, w in guidance.items())
        return base + guidance * (of(*CONDITIONS) - base)

    return run


@pytest.mark.parametrize("case", GUIDANCE)
def test_cached_is_uncached(write, uncached, case):
    answers = write(*GUIDANCE[case])
    coldest = write(*GUIDANCE[case], temperature=0.0).tokens
    assert answers.tokens.shape == (2, STEPS)
    np.testing.assert_array_equal(answers.lengths, STEPS)
    for row in range(2):
        ids = np.asarray(answers.tokens[row])
        wanted = uncached(row, ids.tolist(), *GUIDANCE[case])
        np.testing.assert_allclose(answers.logits[row], wanted, rtol=0, atol=2e-5)
        assert coldest[row, 0] == wanted[0].argmax()
        assert len(np.unique(ids)) > 2


def test_a_blank_stands_for_what_a_pass_does_not_read(write, plain, known, features):
    guidance = -1.5
    answers = write(guidance, ("tok",), BLANKS)
    slots = list(enumerate([START, *np.asarray(answers.tokens[0, :-1]).tolist()]))
    read = {name: known[name] for name in CONDITIONS}
    # Zeros are a vector, too, and the prior's first place is read.
    zero = dict(features, prior=np.zeros_like(features["prior"]))
    blank = {
        "tok": known["tok"],
        "prior": Known(np.zeros((2, 3), np.int32), np.tile(np.arange(3) == 0, (2, 1))),
    }
    full = plain(0, read, "report", slots)
    base = plain(0, blank, "report", slots, zero)
    np.testing.assert_allclose(answers.logits[0], base + guidance * (full - base), atol=2e-5)
    assert not np.allclose(base, plain(0, {"tok": known["tok"]}, "report", slots), atol=1e-2)


def test_guidance_of_one_is_none_to_rounding(write, config, known, features, model):
    plain = write()
    everything, base = CONDITIONS, ("tok",)
    packed = passes.build(
        config, given(known), features, [base, everything], jnp.array([1.0]), {}, 2
    )
    keys = jax.random.split(jax.random.key(0), 2)
    found = _write(*nnx.split(model), packed, keys, jnp.full(2, HOT), None)
    np.testing.assert_allclose(found.logits, plain.logits, atol=2e-5)
    assert np.abs(write(2.5, base).logits - plain.logits).max() > 0.1


def test_a_row_ends_at_its_own_end_token(write):
    endless = np.asarray(write().tokens)
    eos = int(endless[0, 2])
    answers = write(eos_id=eos)
    for row in range(2):
        ends = np.flatnonzero(endless[row] == eos)
        length = ends[0] + 1 if len(ends) else STEPS
        assert answers.lengths[row] == length
        np.testing.assert_array_equal(answers.tokens[row, :length], endless[row, :length])
        assert (answers.tokens[row, length:] == 0).all()
    assert answers.lengths[0] != answers.lengths[1]


def test_draws_depend_on_the_key(generator, known):
    given = {name: known[name] for name in ("tok",)}
    step = Step("report", "autoregressive", num_tokens=6, temperature=3.0, start_id=START)
    both = generator(given, [step], seed=1, rows=np.array([4, 9]))["report"]
    one = {"tok": Known(*(array[1:] for array in known["tok"]))}
    alone = generator(one, [step], seed=1, rows=np.array([9]))["report"]
    np.testing.assert_array_equal(alone.tokens[0], both.tokens[1])
    again = generator(one, [step], seed=2, rows=np.array([9]))["report"]
    assert not np.array_equal(again.tokens, alone.tokens)
    np.testing.assert_array_equal(both.valid.sum(axis=1), 6)


def test_text_with_holes(model, plain, known):
    """The encoder reads the text with its sentinels; what is written fills them."""
    s1, s2, s3 = 5, 6, 7
    text = Known(
        np.array([[9, s1, 12, s2], [0, 0, 0, 0]], np.int32),
        np.array([[True] * 4, [False] * 4]),
    )
    given = {"report": text, "tok": known["tok"]}
    step = Step(
        "report", "autoregressive", temperature=HOT, start_id=s1, eos_id=s3, sentinels=(s1, s2, s3)
    )
    found = Generator(model)(given, [step], seed=SEED)["report"]
    assert found.tokens.shape == (2, 8)
    # Nothing known is one hole.
    text.tokens[1, 0], text.valid[1, 0] = s1, True
    keys = sample_keys(SEED, np.arange(2), 0)
    for row in range(2):
        written: list[int] = []
        room = 6 if row == 0 else 8
        while len(written) < room and s3 not in written:
            logits = plain(row, given, "report", list(enumerate([s1, *written])))[-1:]
            key = jax.random.fold_in(keys[row], len(written))
            written.append(int(choose(key[None], jnp.array(logits), jnp.array([HOT])).tokens[0]))
        spans: dict[int, list[int]] = {s1: [], s2: [], s3: []}
        current = s1
        for token in written:
            if token in spans:
                current = token
            else:
                spans[current].append(token)
        wanted = [9, *spans[s1], 12, *spans[s2]] if row == 0 else spans[s1]
        np.testing.assert_array_equal(found.tokens[row][found.valid[row]], wanted)
        np.testing.assert_array_equal(found.valid[row], np.arange(8) < len(wanted))
    # The seed is one with which the first text comes to its end, both holes filled.
    np.testing.assert_array_equal(found.tokens[0], [9, 4, 12, 10, 0, 0, 0, 0])


def test_a_sequence_without_room(generator):
    full = Known(np.full((2, 8), 9, np.int32), np.array([[True] * 7 + [False], [True] * 8]))
    step = Step("report", "autoregressive", start_id=5, sentinels=(5, 6))
    with pytest.raises(UserError, match="'report': sample 1 has all 8 tokens already"):
        generator({"report": full}, [step])
