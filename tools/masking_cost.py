#!/usr/bin/env python
"""Measures what 4M's masking costs, naive (NumPy, one sample at a time) and fused (one compiled
function), by budget and by batch: time and memory.

Times are medians of wall-clock rounds, both sides in turns; other work on the machine slows both.
Memory is beside arguments and results: what XLA sets aside, and NumPy's peak.

Example: taskset -c 0 python tools/masking_cost.py --out kernels/docs/masking_cost.png
"""

import argparse
import functools
import io
import json
import os
import pathlib
import statistics
import time
import tracemalloc
from collections.abc import Callable
from importlib.metadata import version

import jax
import masking_sets
import medjax_kernels
import numpy_masking
from tqdm import tqdm

from medjax import cli
from medjax.errors import UserError
from medjax.files import write_whole

SIDES = {"naive": "NumPy, a sample at a time", "fused": "medjax_kernels.masking"}


def measure(budget: int, batch: int, rounds: int) -> dict:
    """Time per sample and memory per batch of both sides."""
    scheme, samples = masking_sets.five_modalities(budget), masking_sets.samples(batch)
    masker = numpy_masking.Masker(scheme, seed=0)
    naive = functools.partial(numpy_masking.batch, masker, *jax.device_get(samples[:2]))
    function = jax.jit(functools.partial(medjax_kernels.masking, scheme))
    compiled = function.lower(*samples).compile()
    sides: dict[str, Callable] = {
        "naive": naive,
        "fused": lambda: jax.block_until_ready(compiled(*samples)),
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for round_ in range(rounds + 1):
        for side, call in sides.items():
            began = time.perf_counter()
            call()
            if round_:  # the first one warms up
                seconds[side].append(time.perf_counter() - began)
    memory = {
        "naive": _peak_bytes(naive),
        "fused": compiled.memory_analysis().temp_size_in_bytes,
    }
    return {
        "budget": budget,
        "batch": batch,
        "microseconds_per_sample": {
            side: 1e6 * statistics.median(times) / batch for side, times in seconds.items()
        },
        "bytes": memory,
    }


def _peak_bytes(call: Callable) -> int:
    """What a call allocates at most, without its result."""
    tracemalloc.start()
    result = call()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak - sum(x.nbytes for x in jax.tree.leaves(result))


def run(budgets: list[int], batches: list[int], budget: int, batch: int, rounds: int) -> dict:
    """Both series: budgets at one batch, batches at one budget."""
    points = {
        "budget": [(each, batch) for each in budgets],
        "batch": [(budget, each) for each in batches],
    }
    distinct = list(dict.fromkeys(points["budget"] + points["batch"]))
    found = {p: measure(*p, rounds) for p in tqdm(distinct, desc="masking", unit="point")}
    return {
        "device": jax.devices()[0].device_kind,
        "versions": {package: version(package) for package in ("jax", "numpy")},
        "rounds": rounds,
        **{f"by_{name}": [found[p] for p in series] for name, series in points.items()},
    }


def plot(report: dict, path: pathlib.Path) -> None:
    """Draws time and memory against budget and batch."""
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise UserError("--out needs matplotlib: pip install 'medjax[report]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6), sharey="row", layout="constrained")
    quantities = {
        "µs per sample": lambda row, side: row["microseconds_per_sample"][side],
        "MiB beside the result": lambda row, side: row["bytes"][side] / 2**20,
    }
    for column, by in enumerate(("budget", "batch")):
        rows = report[f"by_{by}"]
        other = "batch" if by == "budget" else "budget"
        for line, (label, value) in enumerate(quantities.items()):
            axis = axes[line, column]
            for side, name in SIDES.items():
                x, y = [row[by] for row in rows], [value(row, side) for row in rows]
                axis.loglog(x, y, "o-", label=name)
            axis.set_xscale("log", base=2)
            axis.set_xticks([row[by] for row in rows], [str(row[by]) for row in rows])
            axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
            axis.minorticks_off()
            axis.grid(alpha=0.3)
            if column == 0:
                axis.set_ylabel(label)
        axes[0, column].set_title(f"by {by}, at {other} {rows[0][other]}")
        axes[1, column].set_xlabel(
            "input tokens, and as many target tokens" if by == "budget" else "samples in a batch"
        )
    axes[0, 0].legend()
    versions = ", ".join(f"{package} {number}" for package, number in report["versions"].items())
    figure.suptitle(f"4M's masking of five modalities ({report['device']}, {versions})")
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120, format="png")
    pyplot.close(figure)
    write_whole(path, picture.getvalue())


def _text(report: dict) -> str:
    lines = [f"masking on {report['device']}, {report['versions']}"]
    for by in ("budget", "batch"):
        for row in report[f"by_{by}"]:
            lines.append(
                f"  budget {row['budget']:4}  batch {row['batch']:5}  "
                + "  ".join(
                    f"{side} {row['microseconds_per_sample'][side]:8.1f} µs/sample "
                    f"{row['bytes'][side] / 2**20:8.2f} MiB"
                    for side in SIDES
                )
            )
    return "\n".join(lines)


def _check_writable(path: pathlib.Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writable = os.access(path.parent, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise UserError(f"--out {path} cannot be written")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--budgets", type=int, nargs="+", default=[16, 32, 64, 128, 256, 512])
    add("--batches", type=int, nargs="+", default=[1, 4, 16, 64, 256, 1024])
    add("--budget", type=int, default=128, help="of the batches")
    add("--batch", type=int, default=256, help="of the budgets")
    add("--rounds", type=int, default=7)
    add("--out", type=pathlib.Path, help="PNG file of a plot")
    add("--json", action="store_true", help="print one JSON object on stdout")
    args = parser.parse_args()
    if min(*args.budgets, *args.batches, args.budget, args.batch, args.rounds) < 1:
        raise UserError("budgets, batches and rounds must be positive")
    if args.out:
        _check_writable(args.out)  # before minutes of measuring
    try:
        report = run(args.budgets, args.batches, args.budget, args.batch, args.rounds)
    except ValueError as error:
        raise UserError(f"masking cannot do this: {error}") from error
    if args.out:
        plot(report, args.out)
    print(json.dumps(report) if args.json else _text(report))


if __name__ == "__main__":
    cli.run(main)
