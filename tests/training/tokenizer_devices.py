"""Trains a tokenizer on one simulated device and on four; `test_tokenizer_objective.py` runs it.

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
from medjax.training.loop import Trainer
from medjax.training.objectives.tokenizer import Reconstruction

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
    model = nnx.merge(graphdef, placed)
    model.quantizer.counts.set_value(jnp.zeros_like(model.quantizer.counts.get_value()))
    objective = Reconstruction(CONFIG, "tok")
    trainer = Trainer(
        model, objective, optax.sgd(0.1), mesh=mesh, dtype=np.dtype(np.float32), seed=3,
        accumulation=2,
    )  # fmt: skip
    figures = []
    for _ in range(2):
        images = rng.uniform(-1, 1, (16, 8, 8, 3)).astype(np.float32)
        figures.append(trainer.step({"tok": images}))
    results = {**trainer.state.params, **trainer.state.carried, **figures[-1]}
    results |= {"restarted": jnp.stack([f["restarted"] for f in figures])}
    found = {name: np.asarray(array) for name, array in results.items()}
    return found | {"devices": np.array(mesh.size)}


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
