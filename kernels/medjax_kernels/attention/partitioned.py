"""Kernels on several devices: each computes its own batch rows and heads.

XLA cannot look into a kernel: left alone, it would gather the whole arrays on every device. So it
is told which dimensions belong together (a rule for Shardy, XLA's partitioner), and each device
runs the kernels on its part. Lengths and head widths stay whole. Query heads that are cut take
their key/value heads with them; the single key/value head of multi-query attention is everywhere
instead. Where neither goes (two key/value heads on four devices), the heads stay whole, too.

Arrays are described by a letter a dimension: b, t, n, s, k, h as in CONTRIBUTING.md, and 1 for a
dimension that is shared by all.
"""

import functools
import math
from collections.abc import Callable

import jax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from medjax_kernels.attention.tokens import Tokens
from medjax_kernels.mark import mark

QUERIES, KEYS, ROWS = "btnh", "bskh", "bnt"


def token_letters(tokens: Tokens, length: str) -> Tokens:
    """Of each field [B, length] or [1, length]."""
    return jax.tree.map(lambda x: ("1" if x.shape[0] == 1 else "b") + length, tokens)


def on_each_device(function: Callable, letters: tuple, results: tuple[str, ...], *arrays):
    """function(*arrays), on each device for its part of the batch and of the heads.

    Args:
      function: gives a tuple of arrays.
      letters: a tree like `arrays`, of each array's letters; the first are `QUERIES`, `KEYS`.
      results: the letters of what comes out.
      *arrays: trees of arrays.
    """

    # custom_partitioning knows no vmap.
    @jax.custom_batching.sequential_vmap
    def call(*arrays):
        return _call(function, (*letters, "1"), results, *arrays, mark(function, *arrays))

    return call(*arrays)


@functools.partial(custom_partitioning, static_argnums=(0, 1, 2))
def _call(function, letters, results, *arrays):
    return function(*arrays[:-1])


def _rule(function, letters, results, mesh, types, result_types):
    """What Shardy may know: n and k are not linked, since it would cut parts of an axis off."""

    def side(words, shared):
        return ", ".join(
            " ".join(f"{shared}{i}" if letter == "1" else letter for letter in word)
            for i, word in enumerate(words)
        )

    whole = {"need_replication_factors": ("t", "h", "s")}  # in the order in which they appear
    return f"{side(jax.tree.leaves(letters), 'one')} -> {side(results, 'two')}", whole


def _partition(function, letters, results, mesh: Mesh, shapes, result_shapes):
    q, k = shapes[:2]
    batch, _, heads, _ = q.sharding.spec
    batch = batch if q.shape[0] % _count(mesh, batch) == 0 else None
    kv_heads = heads if k.shape[2] % _count(mesh, heads) == 0 else None
    if kv_heads is None and (k.shape[2] > 1 or q.shape[2] % _count(mesh, heads)):
        heads = None
    axes = {"b": batch, "n": heads, "k": kv_heads}

    def sharding(word):
        return NamedSharding(mesh, PartitionSpec(*map(axes.get, word)))

    def part(*arrays):
        found = function(*arrays[:-1])
        if heads is None or kv_heads is not None:
            return found
        # Each device has seen some of the query heads that share the key/value head.
        return tuple(
            jax.lax.psum(x, heads) if "k" in word else x
            for x, word in zip(found, results, strict=True)
        )

    return mesh, part, tuple(map(sharding, results)), jax.tree.map(sharding, letters)


def _count(mesh: Mesh, axes: str | tuple[str, ...] | None) -> int:
    """Devices along these axes."""
    names = (axes,) if isinstance(axes, str) else axes or ()
    return math.prod(mesh.shape[name] for name in names)


_call.def_partition(_partition, sharding_rule=_rule)
