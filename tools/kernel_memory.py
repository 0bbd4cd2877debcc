#!/usr/bin/env python
"""How much memory each operation of medjax_kernels takes on GPUs that need not be there.

Compiles forward and backward of every operation at the sizes of real models and prints, in MiB,
what XLA sets aside beside arguments and results, as a Markdown table. Needs the extra
`gpu-compile`.
"""

import argparse
import functools
import json
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import masking_sets
from medjax_kernels import Tokens, attention, cross_entropy, masking, nf4
from tqdm import tqdm

from medjax import cli
from medjax.scaling import gpus

# Implementation and GPU: what holds everything, what V100s run, what newer GPUs run.
COLUMNS = (
    ("reference", "v100"),
    ("xla", "v100"),
    ("xla", "a100"),
    ("pallas_triton", "a100"),
    ("pallas_triton", "h100"),
)


class Case(NamedTuple):
    """A function of an implementation's name and of these abstract arguments."""

    function: Callable
    arguments: tuple


def _half(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float16)


def _ints(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def attend(length: int, heads: int, kv_heads: int, width: int, kinds=(), **options) -> Case:
    """Self-attention of one row, with gradients; `kinds`: fields of `Tokens` that are given."""

    def function(implementation, q, k, v, d_out, fields):
        tokens = Tokens(**dict(zip(kinds, fields, strict=True)))
        run = functools.partial(
            attention, queries=tokens, keys=tokens, implementation=implementation, **options
        )
        out, pull = jax.vjp(run, q, k, v)
        return out, pull(d_out)

    q, k = _half(1, length, heads, width), _half(1, length, kv_heads, width)
    return Case(function, (q, k, k, q, [_ints(1, length)] * len(kinds)))


def decode(batch: int, length: int, heads: int, kv_heads: int, width: int) -> Case:
    """One new token a row against a cache of which the valid part is filled."""

    def function(implementation, q, k, v, valid):
        return attention(q, k, v, keys=Tokens(valid=valid), implementation=implementation)

    cache = _half(batch, length, kv_heads, width)
    valid = jax.ShapeDtypeStruct((batch, length), jnp.bool_)
    return Case(function, (_half(batch, 1, heads, width), cache, cache, valid))


def score(tokens: int, width: int, argnums=(0,)) -> Case:
    """Loss over PaliGemma's vocabulary, with gradients of the hidden states (and of the table)."""

    def function(implementation, hidden, table, targets, weights):
        def loss(hidden, table):
            scores = cross_entropy(hidden, table, targets, weights, implementation=implementation)
            return scores.loss.sum()

        return jax.value_and_grad(loss, argnums)(hidden, table)

    weights = jax.ShapeDtypeStruct((tokens,), jnp.float32)
    return Case(function, (_half(tokens, width), _half(257_216, width), _ints(tokens), weights))


def multiply(rows: int, width: int, outputs: int) -> Case:
    """A product with a matrix in NF4, and the gradient of its input."""

    def function(implementation, x, weights, d_out):
        out, pull = jax.vjp(lambda x: nf4.matmul(x, weights, implementation=implementation), x)
        return out, pull(d_out)

    weights = jax.eval_shape(nf4.quantize, _half(width, outputs))
    return Case(function, (_half(rows, width), weights, _half(rows, outputs)))


def mask(batch: int) -> Case:
    """4M's masking of five modalities, budgets 128 and 128."""
    scheme = masking_sets.five_modalities()

    def function(implementation, tokens, lengths, keys):
        return masking(scheme, tokens, lengths, keys, implementation=implementation)

    return Case(function, jax.eval_shape(lambda: masking_sets.samples(batch)))


_PREFIX = ("block", "valid")
_GEMMA2 = dict(soft_cap=50.0, window=4096)
CASES: dict[str, Callable[[], Case]] = {
    "attention, SigLIP 224 (256 tokens, 16 heads of 72)": lambda: attend(256, 16, 16, 72),
    "attention, SigLIP 448 (1,024 tokens)": lambda: attend(1024, 16, 16, 72),
    "attention, SigLIP 896 (4,096 tokens)": lambda: attend(4096, 16, 16, 72),
    "attention, Gemma 2B (8 heads, 1 kv, 256 wide), 512 tokens": lambda: attend(
        512, 8, 1, 256, _PREFIX
    ),
    "attention, Gemma 2B, 1,024 tokens": lambda: attend(1024, 8, 1, 256, _PREFIX),
    "attention, Gemma 2B, 4,096 tokens": lambda: attend(4096, 8, 1, 256, _PREFIX),
    "attention, Gemma 2 9B (16 heads, 8 kv, soft cap), 4,096 tokens": lambda: attend(
        4096, 16, 8, 256, _PREFIX, **_GEMMA2
    ),
    "attention, 4M-XL decoder (32 heads of 64), 256 tokens": lambda: attend(
        256, 32, 32, 64, ("block", "modality", "valid")
    ),
    "attention, Gemma 2B decoding, 8 rows, cache of 4,096 (forward)": lambda: decode(
        8, 4096, 8, 1, 256
    ),
    "cross_entropy, 1,024 tokens, D = 2,048": lambda: score(1024, 2048),
    "cross_entropy, 4,096 tokens": lambda: score(4096, 2048),
    "cross_entropy, 1,024 tokens, the table trained, too": lambda: score(1024, 2048, (0, 1)),
    "nf4, 256 rows, 2,048 x 16,384": lambda: multiply(256, 2048, 16_384),
    "nf4, 1,024 rows, 16,384 x 2,048": lambda: multiply(1024, 16_384, 2048),
    "masking, 256 samples (forward)": lambda: mask(256),
}


def measure(name: str, implementation: str, gpu: str) -> dict[str, int]:
    """Bytes of temporaries, arguments and results."""
    case = CASES[name]()
    function = functools.partial(case.function, implementation)
    memory = gpus.compile_for(gpu, function, *case.arguments).memory_analysis()
    return {
        "temporaries": memory.temp_size_in_bytes,
        "arguments": memory.argument_size_in_bytes,
        "results": memory.output_size_in_bytes,
    }


def table(found: dict[str, dict[str, dict[str, int]]]) -> str:
    """Markdown: a case a row, temporaries in MiB, with arguments and results in the last column."""
    columns = [f"{implementation}, {gpu}" for implementation, gpu in COLUMNS]
    lines = ["| temporaries, MiB | " + " | ".join(columns) + " | arguments and results |"]
    lines.append("|---|" + "---:|" * (len(columns) + 1))
    for name, sizes in found.items():
        cells = [f"{sizes[column]['temporaries'] / 2**20:,.1f}" for column in columns]
        given = sizes[columns[0]]["arguments"] + sizes[columns[0]]["results"]
        lines.append(f"| {name} | {' | '.join(cells)} | {given / 2**20:,.1f} |")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name contains this")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    args = parser.parse_args()
    names = [name for name in CASES if args.only in name]
    if not names:
        parser.error(f"--only {args.only!r} is in none of: {'; '.join(CASES)}")
    found: dict[str, dict[str, dict[str, int]]] = {}
    for name in tqdm(names, unit="case"):
        found[name] = {
            f"{implementation}, {gpu}": measure(name, implementation, gpu)
            for implementation, gpu in COLUMNS
        }
    print(json.dumps(found) if args.json else table(found))


if __name__ == "__main__":
    cli.run(main)
