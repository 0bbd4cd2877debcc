"""Masks one batch on one and on eight simulated devices; `test_masking.py` runs it."""

import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import chex
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from masking_schemes import SCHEMES, samples
from medjax_kernels import masking


def main() -> None:
    tokens, lengths, keys, _ = samples(SCHEMES["mixture"], 256, seed=4)
    run = jax.jit(lambda *x: masking(SCHEMES["mixture"], *x))
    mesh = Mesh(np.array(jax.devices()), ("data",))
    spread = jax.device_put((tokens, lengths, keys), NamedSharding(mesh, PartitionSpec("data")))
    alone = jax.device_get(run(tokens, lengths, keys))
    together = run(*spread)
    assert len(together.encoder.tokens.sharding.device_set) == 8
    chex.assert_trees_all_equal(jax.device_get(together), alone)
    print(len(jax.devices()), "devices: the same")


if __name__ == "__main__":
    main()
