"""Trains a tokenizer on one simulated device and on four; `test_tokenizer_step.py` runs it.

Usage: tokenizer_devices.py OUTPUT.npz. Keys of the output: <mesh>/<what>.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from medjax.models.tokenizers import ImageTokenizer, ImageTokenizerConfig, ViTConfig, VQConfig
from medjax.scaling import sharding
from medjax.training.tokenizer_step import create, make_tokenizer_step, split

MESHES = {"one": {}, "four": {"data": 2, "fsdp": 2}}
NETWORK = ViTConfig(8, 1, 2, 2.0)
# Half of the codes or so are dead at every step.
QUANTIZER = VQConfig(12, 3, decay=0.8, restart_below=0.9)
CONFIG = ImageTokenizerConfig("image", 8, 4, 3, NETWORK, NETWORK, QUANTIZER)


def train(mesh) -> dict[str, np.ndarray]:
    graphdef, state = nnx.split(nnx.eval_shape(lambda: ImageTokenizer(CONFIG, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(0)
    drawn = jax.tree.map(lambda x: 0.25 * rng.standard_normal(x.shape, np.float32), state)
    placed = jax.tree.map(jax.device_put, drawn, sharding.shardings(state, mesh))
    model, params, codebook = split(nnx.merge(graphdef, placed))
    codebook["quantizer/counts"] = jnp.zeros_like(codebook["quantizer/counts"])
    optimizer = optax.sgd(0.1)
    step = jax.jit(make_tokenizer_step(model, CONFIG, optimizer, seed=3, accumulation=2))
    state, restarted = create(params, codebook, optimizer), []
    for _ in range(2):
        images = rng.uniform(-1, 1, (16, 8, 8, 3)).astype(np.float32)
        batch = sharding.put_batch({"images": images}, mesh)
        state, metrics = step(state, batch["images"])
        restarted.append(metrics.restarted)
    results = {**state.params, **state.codebook, **metrics._asdict()}
    results |= {"restarted": jnp.stack(restarted)}
    found = {name: np.asarray(array) for name, array in results.items()}
    return found | {"devices": np.array(len(batch["images"].sharding.device_set))}


def main(output: str) -> None:
    devices = jax.devices()
    assert len(devices) == 4, devices
    results = {}
    for name, sizes in MESHES.items():
        mesh = sharding.make_mesh(sizes, devices if sizes else devices[:1])
        results |= {f"{name}/{what}": array for what, array in train(mesh).items()}
    np.savez(output, **{k: v for k, v in results.items() if k != "one/devices"})


if __name__ == "__main__":
    main(sys.argv[1])
