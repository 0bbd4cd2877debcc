"""Schedules of several steps, and guidance by the names of conditions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from medjax.decoding.fourm import Generator, Step, sample_keys
from medjax.decoding.fourm.passes import Passes
from medjax.scaling import sharding

# A photo's tokens, the same larger, and a report of both.
STEPS = (
    Step("tok", num_steps=3, temperature=2.0, temperature_schedule="linear", guidance=1.5),
    Step("tok@16", "roar", num_steps=4, top_k=8, conditions=("tok", "photo")),
    Step("report", "autoregressive", num_tokens=5, top_p=0.9, temperature=3.0, start_id=5),
)


@pytest.fixture
def given(known):
    return {name: known[name] for name in ("tok", "photo")}


def same(found, wanted) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_a_chain_is_its_steps_done_by_hand(generator, given, features):
    found = generator(given, STEPS, features=features, seed=3)
    assert list(found) == ["tok", "photo", "tok@16", "report"]
    there = dict(given)
    for index, step in enumerate(STEPS):
        keys = sample_keys(3, np.arange(2), index)
        there[step.target] = generator.step(there, step, keys, features=features)
        assert same(there[step.target], found[step.target])
    assert found["tok"].valid.all()
    assert found["tok@16"].valid.all()
    np.testing.assert_array_equal(found["report"].valid.sum(axis=1), 5)
    assert set(given) == {"tok", "photo"}


def test_what_was_made_is_read(generator, given, features):
    found = generator(given, STEPS, features=features, seed=3)
    other = np.asarray(found["tok"].tokens)[:, ::-1]
    changed = {**found, "tok": found["tok"]._replace(tokens=other)}
    keys = sample_keys(3, np.arange(2), 1)
    del changed["tok@16"]
    again = generator.step(changed, STEPS[1], keys, features=features)
    assert not same(again, found["tok@16"])


def test_one_weighted_condition_is_plain_guidance(generator, known, features):
    settings = dict(num_steps=3, unconditional=("report",), conditions=("photo", "report"))
    plain, weighted, none = (
        Step("tok", guidance=guidance, **settings) for guidance in (3.0, {"photo": 3.0}, 1.0)
    )
    first, second, third = (
        generator(known, [step], features=features)["tok"] for step in (plain, weighted, none)
    )
    assert same(first, second)
    assert not same(first, third)


@pytest.mark.parametrize("unconditional", [(), ("report",)])
def test_passes_of_one_weighted_condition_are_those_of_plain_guidance(unconditional):
    conditions = ("photo", *unconditional)
    plain, weighted = (
        Step("tok", guidance=guidance, unconditional=unconditional)
        for guidance in (3.0, {"photo": 3.0})
    )
    (base, everything), scale = plain.passes(conditions)
    (other, *passes), weights = weighted.passes(conditions)
    assert set(base) == set(other) == set(unconditional)
    assert [set(p) for p in passes] == [set(everything)] == [set(conditions)]
    assert scale == weights == [3.0]


def test_passes_are_combined():
    logits = jnp.array(np.random.default_rng(0).standard_normal((6, 5)), jnp.float32)
    reads = Passes(None, {}, jnp.array([2.0, -0.5]))
    base, a, b = np.asarray(logits).reshape(3, 2, 5)
    wanted = base + 2.0 * (a - base) - 0.5 * (b - base)
    np.testing.assert_allclose(reads.combine(logits), wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(reads.repeat(jnp.arange(2)), [0, 1, 0, 1, 0, 1])


def test_the_same_steps_with_other_numbers_are_not_compiled_again(generator, known):
    given = {"report": known["report"]}
    settings = dict(num_steps=3, guidance=2.0)
    generator(given, [Step("tok", temperature=1.0, **settings)])
    compiled = generator._maskgit._cache_size()
    settings["guidance"] = 4.0
    step = Step("tok", temperature=3.0, temperature_schedule="onex:0.1:0.5", **settings)
    generator(given, [step], seed=9)
    assert generator._maskgit._cache_size() == compiled > 0


def test_a_model_on_a_mesh(model, generator, known, features):
    graphdef, state = nnx.split(model)
    mesh = sharding.make_mesh({}, jax.devices()[:1])
    placed = Generator(nnx.merge(graphdef, jax.device_put(state, sharding.replicated(mesh))))
    given = {name: known[name] for name in ("tok", "photo")}
    found, wanted = (g(given, STEPS[:1], features=features) for g in (placed, generator))
    assert sharding.mesh_of(found["tok"].tokens) == mesh
    assert same(found["tok"], wanted["tok"])
