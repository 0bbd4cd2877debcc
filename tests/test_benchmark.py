"""tools/benchmark.py: both sides agree, and the report has what BENCHMARKS.md records."""

import benchmark
import duels
import pytest
from medjax_kernels import selection


@pytest.mark.parametrize("name", benchmark.BENCHMARKS)
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
