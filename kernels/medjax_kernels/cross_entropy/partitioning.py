"""How the passes over the vocabulary are spread over a device mesh.

Left to itself, XLA would give every device all tokens: it can't see through their sorting, nor into
kernels. Here each device takes the tokens that lie on it, and the words where the table is cut
along the vocabulary; maxima and sums of the softmax are exchanged, and rows of gradients. The width
is gathered, as that of any parameter that is cut along it.
"""

import functools
import math
from collections.abc import Callable

import jax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from medjax_kernels import selection
from medjax_kernels.cross_entropy import device
from medjax_kernels.cross_entropy.device import ALONE, Layout
from medjax_kernels.mark import mark

Axes = tuple[str, ...]


def _axes(argument, dimension: int, mesh: Mesh, taken: Axes = ()) -> Axes:
    """Axes of the mesh along which a dimension is cut evenly, but those taken."""
    spec = argument.sharding.spec
    entry = spec[dimension] if len(spec) > dimension else None
    named = entry if isinstance(entry, tuple) else () if entry is None else (entry,)
    found: Axes = ()
    for axis in named:
        parts = math.prod(mesh.shape[a] for a in (*found, axis))
        if axis not in taken and argument.shape[dimension] % parts == 0:
            found += (axis,)
    return found


def _partitioned(function: Callable, rule: str) -> Callable:
    """`function(*arrays, layout)` of hidden, table and arrays with one number per token."""
    # XLA asks for a device's part later, when another device may be assumed.
    target = selection.device()
    marked = f"k, {rule}"

    def whole(_, *arrays):
        return function(*arrays, layout=ALONE)

    def partition(mesh, arguments, results):
        _, hidden, table, *_ = arguments
        tokens = _axes(hidden, 0, mesh)
        words = _axes(table, 0, mesh, taken=tokens)
        layout = Layout(tokens, words, _axes(table, 1, mesh))

        def sharding(dimensions: str) -> NamedSharding:
            named = {"m": layout.tokens, "v": layout.words, "e": layout.width}
            return NamedSharding(mesh, PartitionSpec(*(named.get(d) for d in dimensions.split())))

        before, after = marked.split("->")
        operands = tuple(map(sharding, before.split(",")))
        outcomes = tuple(map(sharding, after.split(",")))

        def local(_, *arrays):
            with selection.assume(*target):
                return function(*arrays, layout=layout)

        return mesh, local, outcomes if isinstance(results, tuple) else outcomes[0], operands

    made = custom_partitioning(whole)
    made.def_partition(partition, sharding_rule=marked, need_replication_factors=("d",))

    def spread(*arrays):
        return made(mark(functools.partial(function, layout=ALONE), *arrays), *arrays)

    # custom_partitioning knows no vmap.
    return jax.custom_batching.sequential_vmap(spread)


def forward(implementation, options, gradient: bool, hidden, table, targets, weights):
    """`device.forward` on the mesh on which the arrays lie."""

    def local(*arrays, layout):
        found = device.forward(implementation, options, gradient, *arrays, layout=layout)
        return found if gradient else found[:-1]

    rule = "m d, v e, m, m -> m, m, m, m" + ", m d" * gradient
    found = _partitioned(local, rule)(hidden, table, targets, weights)
    return found if gradient else (*found, None)


def table_gradient(implementation, options, hidden, table, targets, weights, lse, d_loss):
    """`device.table_gradient` on the mesh on which the arrays lie."""

    def local(*arrays, layout):
        return device.table_gradient(implementation, options, *arrays, layout=layout)

    rule = "m d, v e, m, m, m, m -> v e"
    return _partitioned(local, rule)(hidden, table, targets, weights, lse, d_loss)
