"""How the passes over the vocabulary are spread over a device mesh.

Left to itself, XLA would give every device all tokens: it can't see through their sorting, nor into
kernels. Here each device takes the tokens that lie on it, and the words where the table is cut
along the vocabulary; maxima and sums of the softmax are exchanged, and rows of gradients. The width
is gathered, as that of any parameter that is cut along it.
"""

import math
from collections.abc import Callable

import jax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from medjax_kernels import selection
from medjax_kernels.cross_entropy import device

Axes = tuple[str, ...]


def _axes(argument, mesh: Mesh, taken: Axes = ()) -> Axes:
    """Axes of the mesh over which an argument's rows are spread evenly, but those taken."""
    spec = argument.sharding.spec
    entry = spec[0] if len(spec) else None
    named = entry if isinstance(entry, tuple) else () if entry is None else (entry,)
    found: Axes = ()
    for axis in named:
        parts = math.prod(mesh.shape[a] for a in (*found, axis))
        if axis not in taken and argument.shape[0] % parts == 0:
            found += (axis,)
    return found


def _index(mesh: Mesh, axes: Axes):
    """Which of the parts along these axes the device holds."""
    index = 0
    for axis in axes:
        index = index * mesh.shape[axis] + jax.lax.axis_index(axis)
    return index


def _partitioned(function: Callable, rule: str) -> Callable:
    """`function(*arrays, first, over_words, over_tokens)` of hidden, table and arrays per token."""
    # XLA asks for a device's part later, when it may be another device's turn to be assumed.
    target = selection.device()

    def whole(*arrays):
        return function(*arrays, first=0, over_words=(), over_tokens=())

    def partition(mesh, arguments, results):
        tokens = _axes(arguments[0], mesh)
        words = _axes(arguments[1], mesh, taken=tokens)

        def sharding(dimensions: str) -> NamedSharding:
            named = {"m": tokens, "v": words}
            return NamedSharding(mesh, PartitionSpec(*(named.get(d) for d in dimensions.split())))

        before, after = rule.split("->")
        operands = tuple(map(sharding, before.split(",")))
        outcomes = tuple(map(sharding, after.split(",")))

        def local(hidden, table, *arrays):
            first = _index(mesh, words) * table.shape[0]
            with selection.assume(*target):
                return function(
                    hidden, table, *arrays, first=first, over_words=words, over_tokens=tokens
                )

        return mesh, local, outcomes if isinstance(results, tuple) else outcomes[0], operands

    made = custom_partitioning(whole)
    made.def_partition(partition, sharding_rule=rule, need_replication_factors=("d",))
    # custom_partitioning knows no vmap.
    return jax.custom_batching.sequential_vmap(made)


def forward(implementation, options, gradient: bool, hidden, table, targets, weights):
    """`device.forward` on the mesh on which the arrays lie."""

    def local(*arrays, first, over_words, over_tokens):
        del over_tokens
        found = device.forward(
            implementation, options, gradient, *arrays, first=first, axes=over_words
        )
        return found if gradient else found[:-1]

    rule = "m d, v d, m, m -> m, m, m, m" + ", m d" * gradient
    found = _partitioned(local, rule)(hidden, table, targets, weights)
    return found if gradient else (*found, None)


def table_gradient(implementation, options, hidden, table, targets, weights, lse, d_loss):
    """`device.table_gradient` on the mesh on which the arrays lie."""

    def local(*arrays, first, over_words, over_tokens):
        del over_words
        return device.table_gradient(
            implementation, options, *arrays, first=first, axes=over_tokens
        )

    rule = "m d, v d, m, m, m, m -> v d"
    return _partitioned(local, rule)(hidden, table, targets, weights, lse, d_loss)
