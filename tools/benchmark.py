#!/usr/bin/env python
"""Runs medjax and another way to compute the same in turns, and prints how they compare.

Times are wall-clock; other work on the machine slows both sides, so the ratio is what counts.
Memory is what XLA sets aside beside arguments and results. Figures worth keeping go into
BENCHMARKS.md, with the command, the machine and the date.
"""

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import NamedTuple

import jax
import jax.numpy as jnp
import masking_sets
import medjax_kernels
import numpy as np
import numpy_masking
import optax
from flax import nnx
from medjax_kernels import Tokens, attention, cross_entropy
from medjax_kernels.attention import up_to
from medjax_kernels.nf4 import dequantize, matmul, quantize
from tqdm import tqdm

from medjax import cli
from medjax.models.layers import Linear


def _same(ours, theirs) -> None:
    """Fails if two trees of numbers differ."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), ours, theirs)


class Duel(NamedTuple):
    """Two functions of the same arguments that must give the same.

    Attributes:
      medjax: is compiled.
      peer: is compiled, unless its arguments are given.
      arguments: of both.
      peer_arguments: of a peer that is plain Python: NumPy's arrays.
      agree: fails if the results differ in what they must have in common.
      samples: in the arguments, if speed is told in samples per second.
    """

    medjax: Callable
    peer: Callable
    arguments: tuple
    peer_arguments: tuple | None = None
    agree: Callable = _same
    samples: int | None = None


def _normal(*shape: int) -> jax.Array:
    rng = np.random.default_rng(sum(shape))
    return jnp.asarray(rng.standard_normal(shape), jnp.float32)


def _gradient(function: Callable) -> Callable:
    """The gradients in all arguments but the last, which is the result's."""
    return lambda *args: jax.vjp(function, *args[:-1])[1](args[-1])


def linear() -> Duel:
    """Gradient of Linear's kernel [96, 192], input [32, 64, 96]; peer: einsum over both axes."""
    graph, state = nnx.split(Linear(96, 192, axes=("embed", "mlp"), rngs=nnx.Rngs(0)))
    x = _normal(32, 64, 96)
    ours = _gradient(lambda state: nnx.merge(graph, state)(x))
    peer = _gradient(lambda state: jnp.einsum("btd,df->btf", x, state["kernel"].get_value()))
    return Duel(ours, peer, (state, _normal(32, 64, 192)))


def multi_query() -> Duel:
    """Attention of 4 heads on one key head, [32, 98, 4, 32], with gradients; peer: einsums of
    grouped heads."""

    def peer(q, k, v):
        grouped = q.reshape(32, 98, 1, 4, 32) * 32**-0.5
        logits = jnp.einsum("btkgh,bskh->bkgts", grouped, k)
        out = jnp.einsum("bkgts,bskh->btkgh", jax.nn.softmax(logits), v)
        return out.reshape(q.shape)

    q, k = _normal(32, 98, 4, 32), _normal(32, 98, 1, 32)
    return Duel(_gradient(attention), _gradient(peer), (q, k, k + 1, q + 1))


def vision_attention() -> Duel:
    """SigLIP's attention at 448 pixels, [1, 1024, 16, 72], with gradients; peer: jax.nn's."""
    q = _normal(1, 1024, 16, 72)
    peer = _gradient(jax.nn.dot_product_attention)
    return Duel(_gradient(attention), peer, (q, q + 1, q - 1, 2 * q))


def causal_attention() -> Duel:
    """Causal attention at Gemma's width, [1, 2048, 8, 256] on one key head, with gradients; peer:
    jax.nn's."""
    q, k = _normal(1, 2048, 8, 256), _normal(1, 2048, 1, 256)
    tokens = Tokens(block=jnp.arange(2048)[None])

    def ours(q, k, v):
        return attention(q, k, v, queries=tokens, keys=tokens)

    def peer(q, k, v):
        return jax.nn.dot_product_attention(q, k, v, is_causal=True)

    return Duel(_gradient(ours), _gradient(peer), (q, k, k + 1, q + 1))


def decode() -> Duel:
    """One query a row, [8, 1, 8, 256], to a cache of 4,096 slots on 4 key heads, half of them
    filled; peer: jax.nn's."""
    q, k = _normal(8, 1, 8, 256), _normal(8, 4096, 4, 256)
    lengths = 2048 - jnp.arange(8)

    def ours(q, k, v, lengths):
        return attention(q, k, v, keys=Tokens(valid=up_to(lengths, 4096)))

    def peer(q, k, v, lengths):
        return jax.nn.dot_product_attention(q, k, v, key_value_seq_lengths=lengths)

    return Duel(ours, peer, (q, k, k + 1, lengths))


def vocabulary() -> Duel:
    """Loss and gradient of 512 tokens, half of them supervised, with 32,768 words; peer: optax on
    all logits."""
    weights = jnp.tile(jnp.array([0.0, 1.0]), 256)
    targets = jnp.arange(512) * 64
    table = _normal(32_768, 512) / 16

    def ours(hidden):
        return jnp.sum(cross_entropy(hidden, table, targets, weights).loss)

    def peer(hidden):
        losses = optax.softmax_cross_entropy_with_integer_labels(hidden @ table.T, targets)
        return jnp.sum(weights * losses)

    return Duel(jax.value_and_grad(ours), jax.value_and_grad(peer), (_normal(512, 512),))


def nf4() -> Duel:
    """64 rows times a matrix [2048, 8192] in NF4, and the rows' gradient; peer: the whole matrix
    dequantized, then multiplied."""

    def both(product):
        def function(x, weights, d_out):
            out, pull = jax.vjp(lambda x: product(x, weights), x)
            return out, *pull(d_out)

        return function

    peer = both(lambda x, weights: x @ dequantize(weights))
    weights = quantize(_normal(2048, 8192) / 64)
    return Duel(both(matmul), peer, (_normal(64, 2048), weights, _normal(64, 8192)))


def masking() -> Duel:
    """4M's masking of 256 samples, three images and two sequences, budgets 128; peer: NumPy, one
    sample at a time. On one core: taskset -c 0 python tools/benchmark.py masking"""
    scheme, samples = masking_sets.five_modalities(), masking_sets.samples(256)
    peer = functools.partial(numpy_masking.batch, numpy_masking.Masker(scheme, seed=0))

    def agree(ours, theirs):
        """Each draws for itself: no budget is exceeded, and means differ by chance alone."""
        for name in ("input_counts", "target_counts"):
            a, b = np.array(getattr(ours, name)), getattr(theirs, name)
            assert max(a.sum(axis=1).max(), b.sum(axis=1).max()) <= 128
            error = np.sqrt((a.var(axis=0) + b.var(axis=0)) / len(a))
            np.testing.assert_array_less(np.abs(a.mean(axis=0) - b.mean(axis=0)), 5 * error + 1e-9)

    ours = functools.partial(medjax_kernels.masking, scheme)
    return Duel(ours, peer, samples, jax.device_get(samples[:2]), agree, samples=256)


BENCHMARKS = {
    f.__name__: f
    for f in (
        linear, multi_query, vision_attention, causal_attention, decode, vocabulary, nf4, masking,
    )
}


def run(name: str, rounds: int) -> dict:
    """Times both sides in turns, after checking that they agree."""
    duel = BENCHMARKS[name]()
    arguments = {"medjax": duel.arguments, "peer": duel.peer_arguments or duel.arguments}
    compiled = {
        side: jax.jit(getattr(duel, side)).lower(*duel.arguments).compile()
        for side in (("medjax",) if duel.peer_arguments else ("medjax", "peer"))
    }
    sides = {"peer": duel.peer} | compiled
    duel.agree(*(jax.block_until_ready(sides[side](*x)) for side, x in arguments.items()))
    seconds: dict[str, list[float]] = {side: [] for side in arguments}
    for _ in tqdm(range(rounds), desc=name, unit="round"):
        for side, values in arguments.items():
            began = time.perf_counter()
            jax.block_until_ready(sides[side](*values))
            seconds[side].append(time.perf_counter() - began)
    ratios = [b / a for a, b in zip(seconds["medjax"], seconds["peer"], strict=True)]
    memory = {side: c.memory_analysis().temp_size_in_bytes for side, c in compiled.items()}
    rates = {
        side: duel.samples / statistics.median(times)
        for side, times in seconds.items()
        if duel.samples
    }
    return {
        "benchmark": name,
        "device": jax.devices()[0].device_kind,
        "versions": {package: version(package) for package in ("jax", "flax", "optax")},
        "milliseconds": {
            side: _spread([1000 * t for t in times]) for side, times in seconds.items()
        },
        "peer_over_medjax": _spread(ratios),
        "temporary_bytes": memory,
        "samples_per_second": rates,
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def _text(report: dict) -> str:
    def line(what: str, spread: dict) -> str:
        return f"  {what:18}" + "  ".join(f"{key} {value:8.3f}" for key, value in spread.items())

    times, memory = report["milliseconds"], report["temporary_bytes"]
    return "\n".join(
        [
            f"{report['benchmark']} on {report['device']}, {report['versions']}",
            *(line(f"{side}, ms", spread) for side, spread in times.items()),
            line("peer / medjax", report["peer_over_medjax"]),
            *(
                f"  {side:8} {size / 2**20:10.2f} MiB of temporaries"
                for side, size in memory.items()
            ),
            *(
                f"  {side:8} {rate:10.0f} samples/s"
                for side, rate in report["samples_per_second"].items()
            ),
        ]
    )


def main() -> None:
    """The command."""
    names = "\n".join(f"  {name}: {f.__doc__}" for name, f in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\nbenchmarks:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=BENCHMARKS, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    args = parser.parse_args()
    report = run(args.name, args.rounds)
    print(json.dumps(report) if args.json else _text(report))


if __name__ == "__main__":
    cli.run(main)
