"""Attention's kernels on eight simulated devices; `test_attention_triton.py` runs it.

Usage: attention_on_devices.py OUTPUT.npz. Keys of the output: <mesh>/<what>.
"""

import functools
import re
import sys

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from medjax_kernels import Tokens, attention

ROWS = ("data", "fsdp")
# Sizes of data, fsdp and tensor; N and K; what the heads of q and of k are cut by.
MESHES = {
    "batch": ((4, 2, 1), 8, 8, None, None),
    "heads": ((2, 2, 2), 8, 4, "tensor", "tensor"),
    "one key head": ((2, 2, 2), 8, 1, "tensor", None),
    "key heads that do not divide": ((2, 1, 4), 8, 2, "tensor", None),
    "one key head, float16": ((2, 2, 2), 8, 1, "tensor", None),
}


@functools.partial(jax.jit, static_argnums=(0, 6))
def gradients(implementation, q, k, v, d_out, tokens, scale=None):
    def attend(q, k, v):
        return attention(
            q, k, v, queries=tokens, keys=tokens, scale=scale, implementation=implementation
        )

    out, pull = jax.vjp(attend, q, k, v)
    return dict(zip(("out", "d_q", "d_k", "d_v"), (out, *pull(d_out)), strict=True))


def beyond_float16(q, k, v, d_out):
    """With gradients that are float16 numbers, where those of the logits are not. The first four
    heads' are smaller than the others'."""
    powers = np.repeat([-18.0, -10.0], 4)[:, None]
    return [x.astype(np.float16) for x in (q / 64, 64 * k, v, d_out * 2.0**powers)]


def main(output: str) -> None:
    """Runs it all."""
    assert len(jax.devices()) == 8, jax.devices()
    found = {}
    rng = np.random.default_rng(0)
    # One field is everybody's, the other each row's own.
    tokens = Tokens(block=np.maximum(np.arange(6) - 2, 0)[None], valid=rng.random((8, 6)) < 0.8)
    for name, (sizes, heads, kv_heads, q_axis, k_axis) in MESHES.items():
        mesh = Mesh(np.array(jax.devices()).reshape(sizes), (*ROWS, "tensor"))

        def lay(x, *axes, mesh=mesh):
            return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))

        shapes = [(8, 6, n, 16) for n in (heads, kv_heads, kv_heads, heads)]
        arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
        if "float16" in name:
            arrays = beyond_float16(*arrays)
        axes = (q_axis, k_axis, k_axis, q_axis)
        laid = [lay(x, ROWS, None, axis) for x, axis in zip(arrays, axes, strict=True)]
        laid.append(Tokens(block=lay(tokens.block), valid=lay(tokens.valid, ROWS)))
        # XLA would leave rounding out on a CPU.
        rounded = {"xla_allow_excess_precision": False}
        program = gradients.lower("pallas_triton", *laid).compile(compiler_options=rounded)
        wanted = gradients("reference", *arrays, tokens)
        found |= {f"{name}/reference/{key}": np.asarray(x) for key, x in wanted.items()}
        results = program(*laid)
        found |= {f"{name}/{key}": np.asarray(x) for key, x in results.items()}
        for letter in "qk":
            part = results[f"d_{letter}"].addressable_shards[0].data
            found[f"{name}/part of {letter}"] = np.array(part.shape)
        for what in ("all-gather", "all-reduce"):
            found[f"{name}/{what}"] = np.array(f" {what}(" in program.as_text())
    texts = [gradients.lower("pallas_triton", *laid, scale).as_text() for scale in (0.1, 0.1, 0.2)]
    found["programs"] = np.array([re.sub(r'backend_config = "\d+"', "", x) for x in texts])
    np.savez(output, **found)


if __name__ == "__main__":
    main(sys.argv[1])
