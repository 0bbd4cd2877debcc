#!/usr/bin/env python
"""Tries tile sizes of attention's kernels at the models' sizes.

On a GPU of compute capability 8.0 and up it times them and prints lines for the table in
kernels/medjax_kernels/attention/tile_sizes.py. With --gpu it compiles them for a GPU that is not
there, and tells which fit and what they take.

Examples:
  tune_attention.py
  tune_attention.py --gpu a100 --model siglip --kernel forward
"""

import argparse
import functools
import itertools
import json
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from medjax_kernels import Tokens, selection
from medjax_kernels.attention import float16, pallas_triton, pallas_triton_backward
from medjax_kernels.attention.options import Options
from medjax_kernels.attention.parts import padded
from medjax_kernels.attention.tile_sizes import FEW_QUERIES, KERNELS, TileSize
from tqdm import tqdm

from medjax import cli
from medjax.errors import UserError
from medjax.scaling import gpu_kernels, gpus


class Model(NamedTuple):
    """Heads of one model, and what masks them."""

    length: int
    heads: int
    kv_heads: int
    width: int
    masked: bool
    soft_cap: float | None = None


MODELS = {
    "siglip": Model(1024, 16, 16, 72, masked=False),
    "4m-xl": Model(1024, 32, 32, 64, masked=True),
    "128": Model(1024, 16, 4, 128, masked=True),  # no model of medjax: the table's row
    "gemma1": Model(1024, 8, 1, 256, masked=True),
    "gemma2": Model(1024, 8, 4, 256, masked=True, soft_cap=50.0),
}
CALLS = 10  # at a time, so that the GPU does not wait for Python
QUERIES, KEYS, WARPS, STAGES = (32, 64, 128), (32, 64, 128), (4, 8), (1, 2, 3)


def candidates(kernel: str, dtype: jnp.dtype) -> list[TileSize]:
    """Tiles worth a try."""
    queries = (FEW_QUERIES,) if kernel == "few_queries" else QUERIES
    found = [TileSize(*sizes) for sizes in itertools.product(queries, KEYS, WARPS, STAGES)]
    # float32 is multiplied without tensor cores, from registers.
    return [t for t in found if dtype.itemsize < 4 or t.queries * t.keys <= 32 * 64]


def function(kernel: str, model: Model, device: selection.Device, tile: TileSize):
    """One kernel of the arguments that `arguments` makes."""
    options = Options(model.width**-0.5, model.soft_cap)
    call = {
        "d_q": pallas_triton_backward.d_q,
        "d_kv": pallas_triton_backward.d_kv,
    }.get(kernel, pallas_triton.forward)
    return functools.partial(call, options=options, device=device, tile=tile)


def arguments(kernel: str, model: Model, batch: int, dtype: jnp.dtype) -> tuple:
    """Arrays of random numbers."""
    few = max(1, FEW_QUERIES // (model.heads // model.kv_heads))
    length = few if kernel == "few_queries" else model.length
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.standard_normal(shape), dtype)

    q = draw(batch, length, model.heads, model.width)
    k, v = (draw(batch, model.length, model.kv_heads, model.width) for _ in range(2))
    tokens = [Tokens(), Tokens()]
    if model.masked:  # a prefix of a quarter, and causal after it
        block = jnp.maximum(jnp.arange(model.length, dtype=jnp.int32) - model.length // 4, 0)
        block = jnp.tile(block, (batch, 1))
        valid = jnp.ones(block.shape, bool)
        last = slice(model.length - length, None)
        tokens = [Tokens(block=block[:, x], valid=valid[:, x]) for x in (last, slice(None))]
    if kernel in ("forward", "few_queries"):
        return q, k, v, *tokens
    rows = jnp.zeros((batch, model.heads, length), jnp.float32)
    d_out = draw(*q.shape)
    gain = float16.gain(d_out, v, model.width**-0.5)
    return q, k, v, *tokens, d_out, rows + 8, rows, gain


def taken(gpu: str, call: Callable, inputs: tuple) -> dict[str, int]:
    """What a candidate takes of a GPU."""
    found = gpu_kernels.resources(gpu, call, *inputs)
    # Beside it stand XLA's kernels, which tell what tiles are computed.
    (kernel,) = (x for name, x in found.items() if name.startswith("attention_"))
    return kernel._asdict()


def _capability(gpu: str) -> tuple[int, int]:
    major, minor = map(int, gpus.devices(gpu)[0].compute_capability.split("."))
    return major, minor


def timed(call: Callable, inputs: tuple, rounds: int) -> dict[str, float]:
    """Milliseconds of a candidate on the GPU that is there."""
    program = call.lower(*inputs).compile()
    jax.block_until_ready(program(*inputs))
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        jax.block_until_ready([program(*inputs) for _ in range(CALLS)])
        times.append(1000 * (time.perf_counter() - began) / CALLS)
    return {"milliseconds": statistics.median(times)}


def tune(args: argparse.Namespace) -> dict:
    """The report: every candidate, and the best of each model and kernel where they were timed."""
    dtype = jnp.dtype(args.dtype)
    device = selection.Device("gpu", _capability(args.gpu)) if args.gpu else selection.device()
    if device.platform != "gpu" or (device.capability or (0, 0)) < (8, 0):
        raise UserError(
            f"a {device} takes no tiles: they are timed on a GPU of compute capability 8.0 and up; "
            "--gpu a100 or --gpu h100 compiles them without one"
        )
    rows = []
    work = [
        (name, kernel, tile)
        for name in args.model or MODELS
        for kernel in args.kernel or KERNELS
        for tile in candidates(kernel, dtype)[:: args.every]
    ]

    @functools.cache
    def inputs(name: str, kernel: str) -> tuple:
        return arguments(kernel, MODELS[name], args.batch, dtype)

    for name, kernel, tile in tqdm(work, unit="candidate"):
        call = jax.jit(function(kernel, MODELS[name], device, tile))
        given = inputs(name, kernel)
        try:
            found = taken(args.gpu, call, given) if args.gpu else timed(call, given, args.rounds)
        except jax.errors.JaxRuntimeError as error:
            found = {"error": str(error).splitlines()[0]}
        rows.append({"model": name, "kernel": kernel, "tile": list(tile), **found})
    return {
        "gpu": args.gpu or str(device),
        "dtype": dtype.name,
        "candidates": rows,
        "best": _best(rows),
    }


def _best(rows: list[dict]) -> dict[str, dict[str, list[int]]]:
    """{model: {kernel: fastest tile}}."""
    best: dict[str, dict[str, dict]] = {}
    for row in rows:
        if "milliseconds" in row:
            fastest = best.setdefault(row["model"], {})
            before = fastest.get(row["kernel"], row)
            fastest[row["kernel"]] = min(before, row, key=lambda r: r["milliseconds"])
    return {m: {kernel: row["tile"] for kernel, row in b.items()} for m, b in best.items()}


def _text(report: dict) -> str:
    lines = [f"{report['gpu']}, {report['dtype']}"]
    for row in report["candidates"]:
        rest = {k: v for k, v in row.items() if k not in ("model", "kernel", "tile")}
        told = "  ".join(f"{k} {v:.4g}" if k != "error" else v for k, v in rest.items())
        lines.append(f"  {row['model']:8}{row['kernel']:12}{tuple(row['tile'])!s:20} {told}")
    if report["best"]:
        lines.append("for the table in kernels/medjax_kernels/attention/tile_sizes.py:")
    for name, tiles in report["best"].items():
        row = ", ".join(f"TileSize{tuple(tiles[k])}" for k in KERNELS if k in tiles)
        lines.append(f"  {padded(MODELS[name].width)}: ({row}),  # {name}")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--gpu", help=f"compile for one that is not there: {', '.join(gpus.NAMES)}")
    add("--model", action="append", choices=MODELS, help="may be repeated; by default all")
    add("--kernel", action="append", choices=KERNELS, help="may be repeated; by default all")
    add("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    add("--batch", type=cli.positive, default=4)
    add("--rounds", type=cli.positive, default=10, help=f"of {CALLS} calls each; the median counts")
    add("--every", type=cli.positive, default=1, metavar="N", help="try each N-th candidate alone")
    add("--json", action="store_true", help="print one JSON object on stdout")
    args = parser.parse_args()
    report = tune(args)
    print(json.dumps(report) if args.json else _text(report))


if __name__ == "__main__":
    cli.run(main)
