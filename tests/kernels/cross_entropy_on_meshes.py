"""Cross entropy and its gradients on several meshes of eight simulated devices, and on one.

Usage: cross_entropy_on_meshes.py OUTPUT.npz; `test_cross_entropy_meshes.py` runs it. Keys of the
output: <implementation>/<mesh>/<what>.
"""

import functools
import re
import sys

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from medjax_kernels import cross_entropy
from medjax_kernels.cross_entropy import device

AXES = ("data", "fsdp", "tensor")
MESHES = {"xla": ["8x1x1", "2x2x2", "1x8x1", "1x1x8"], "pallas_triton": ["2x2x2"]}
WHAT = ("d_hidden", "d_table", "loss", "log_prob", "argmax")
# Tokens, width and words; two parts of the table and a rest are gathered where it is cut.
M, D, V = 16, 8, 48
device.GATHERED = 4 * D * 20


@functools.partial(jax.jit, static_argnums=(0, 5))
def gradients(implementation, hidden, table, targets, weights, label_smoothing=0.1):
    def total(hidden, table):
        scores = cross_entropy(
            hidden, table, targets, weights,
            implementation=implementation, soft_cap=3.0, label_smoothing=label_smoothing,
        )  # fmt: skip
        return scores.loss.sum(), scores

    return jax.grad(total, argnums=(0, 1), has_aux=True)(hidden, table)


def main(output: str) -> None:
    rng = np.random.default_rng(0)
    arrays = (
        rng.standard_normal((M, D), np.float32),
        rng.standard_normal((V, D), np.float32),
        rng.integers(0, V, M).astype(np.int32),
        # Devices have from no token to all of theirs to compute.
        (rng.random(M) < np.linspace(0, 1, M)).astype(np.float32),
    )
    rows = ("data", "fsdp")
    specs = (
        PartitionSpec(rows), PartitionSpec("tensor", "fsdp"), PartitionSpec(rows),
        PartitionSpec(rows),
    )  # fmt: skip
    found = {}

    def keep(name, result):
        (d_hidden, d_table), scores = result
        values = (d_hidden, d_table, *scores)
        found.update({f"{name}/{k}": np.asarray(x) for k, x in zip(WHAT, values, strict=True)})
        for k, x in (("d_hidden", d_hidden), ("d_table", d_table)):
            found[f"{name}/part of {k}"] = np.array(x.addressable_shards[0].data.shape)

    keep("reference/single", gradients("reference", *arrays))
    for implementation, meshes in MESHES.items():
        for name in meshes:
            devices = np.asarray(jax.devices()).reshape([int(size) for size in name.split("x")])
            mesh = Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 3)
            laid = [
                jax.device_put(x, NamedSharding(mesh, s))
                for x, s in zip(arrays, specs, strict=True)
            ]
            keep(f"{implementation}/{name}", gradients(implementation, *laid))
    texts = [gradients.lower("xla", *laid, share).as_text() for share in (0.1, 0.1, 0.2)]
    found["programs"] = np.array([re.sub(r'backend_config = "\d+"', "", x) for x in texts])
    np.savez(output, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
