#!/usr/bin/env python
"""Runs medjax and another way to compute the same in turns, and prints how they compare.

Times are wall-clock; other work on the machine slows both sides, so the ratio is what counts.
Memory is what XLA sets aside beside arguments and results. Figures worth keeping go into
BENCHMARKS.md, with the command, the machine and the date.
"""

import argparse
import json
import statistics
import time
from importlib.metadata import version

import jax
from duels import BENCHMARKS
from tqdm import tqdm

from medjax import cli


def run(name: str, rounds: int) -> dict:
    """Times both sides in turns, after checking that they agree."""
    duel = BENCHMARKS[name]()
    plain = duel.peer_arguments is not None
    arguments = {"medjax": duel.arguments, "peer": duel.peer_arguments if plain else duel.arguments}
    compiled = {
        side: jax.jit(getattr(duel, side), donate_argnums=(0,) if duel.carried else ())
        .lower(*duel.arguments)
        .compile()
        for side in (("medjax",) if plain else ("medjax", "peer"))
    }
    sides = {"peer": duel.peer} | compiled

    def call(side: str):
        out = jax.block_until_ready(sides[side](*arguments[side]))
        if duel.carried and side == "medjax":
            state, out = out
            arguments[side] = (state, *arguments[side][1:])
        return out

    duel.agree(*(call(side) for side in arguments))
    seconds: dict[str, list[float]] = {side: [] for side in arguments}
    for _ in tqdm(range(rounds), desc=name, unit="round"):
        for side in arguments:
            began = time.perf_counter()
            call(side)
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
        "versions": {
            package: version(package) for package in ("jax", "flax", "optax", *duel.packages)
        },
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
    parser.add_argument("--rounds", type=cli.positive, default=15)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    args = parser.parse_args()
    report = run(args.name, args.rounds)
    print(json.dumps(report) if args.json else _text(report))


if __name__ == "__main__":
    cli.run(main)
