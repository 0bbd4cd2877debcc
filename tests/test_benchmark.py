"""tools/benchmark.py: both sides agree, and the report has what BENCHMARKS.md records."""

import dataclasses

import benchmark
import duels
import fourm_training
import jax
import numpy as np
import pytest
from medjax_kernels import selection


@pytest.fixture
def small_fourm(monkeypatch):
    """A model of 4M that trains in no time."""
    full = fourm_training.config()
    modalities = tuple(
        dataclasses.replace(
            m,
            vocab_size=m.vocab_size and 300 + 10 * i,
            image_size=m.image_size and 64,
            max_length=m.max_length and 32,
        )
        for i, m in enumerate(full.modalities)
    )
    small = dataclasses.replace(
        full, width=48, encoder_depth=1, decoder_depth=1, modalities=modalities
    )
    monkeypatch.setattr(fourm_training, "config", lambda: small)
    monkeypatch.setattr(fourm_training, "BUDGET", 32)
    monkeypatch.setattr(fourm_training, "LEARNING_RATE", 0.01)


@pytest.mark.parametrize("name", sorted({*benchmark.BENCHMARKS} - {"fourm_train"}))
def test_report(name):
    report = benchmark.run(name, rounds=2)  # fails if the sides differ
    for spread in (*report["milliseconds"].values(), report["peer_over_medjax"]):
        assert 0 < spread["min"] <= spread["median"] <= spread["max"]
    assert report["versions"]["jax"]
    text = benchmark._text(report)
    assert f"{report['peer_over_medjax']['median']:.3f}" in text
    assert "MiB" in text


def test_sides_that_differ_are_no_benchmark(monkeypatch):
    wrong = duels.Duel(lambda x: x, lambda x: 2 * x, duels.linear().arguments[1:])
    monkeypatch.setitem(benchmark.BENCHMARKS, "linear", lambda: wrong)
    with pytest.raises(AssertionError, match="Not equal"):
        benchmark.run("linear", rounds=1)


def test_masking_is_told_in_samples():
    report = benchmark.run("masking", rounds=1)
    for side, rate in report["samples_per_second"].items():
        assert rate == pytest.approx(256_000 / report["milliseconds"][side]["median"])
        assert f"{rate:.0f} samples/s" in benchmark._text(report)
    assert set(report["samples_per_second"]) == {"medjax", "peer"}


def test_masking_that_differs_is_no_benchmark(monkeypatch):
    """A side that counts the modalities in another order."""
    duel = duels.masking()

    def turned(*arguments):
        out = duel.peer(*arguments)
        return out._replace(target_counts=out.target_counts[:, ::-1])

    monkeypatch.setitem(benchmark.BENCHMARKS, "masking", lambda: duel._replace(peer=turned))
    with pytest.raises(AssertionError):
        benchmark.run("masking", rounds=1)


@pytest.mark.usefixtures("small_fourm")
def test_training_of_4m(monkeypatch):
    outcomes = {tuple: [], fourm_training.Outcome: []}  # medjax's come with the next state

    def record(out):
        outcomes[type(out)].append(out)
        return out

    monkeypatch.setattr(jax, "block_until_ready", record)
    report = benchmark.run("fourm_train", rounds=8)
    assert report["versions"]["torch"]
    assert set(report["samples_per_second"]) == {"medjax", "peer"}
    states, ours = zip(*outcomes[tuple], strict=True)
    theirs = outcomes[fourm_training.Outcome]
    assert [int(step) for step, *_ in states[-1:]] == [len(ours)] == [9]
    for first, *_, last in (ours, theirs):  # both learn
        assert all(np.asarray(last.losses) < first.losses)
    for wrong in fourm_training.Outcome._fields:
        other = theirs[0]._replace(**{wrong: 1.1 * getattr(theirs[0], wrong)})
        with pytest.raises(AssertionError, match=r"(?i)not equal"):
            fourm_training.agree(ours[0], other)


@pytest.mark.parametrize(
    ("capability", "width", "implementation"),
    [
        (None, 72, None),
        ((7, 0), 72, None),
        ((8, 0), 72, "cudnn"),
        ((8, 0), 76, None),
        ((8, 9), 256, None),
        ((9, 0), 256, "cudnn"),
        ((9, 0), 264, None),
    ],
)
def test_the_peer_is_cudnn_where_it_takes_the_heads(capability, width, implementation):
    with selection.assume("gpu" if capability else "cpu", capability):
        assert duels._fastest_of_jax(width).keywords == {"implementation": implementation}
