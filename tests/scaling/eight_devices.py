"""Trains and answers on several meshes of eight simulated devices; `test_sharding.py` runs it.

Usage: eight_devices.py OUTPUT.npz. Keys of the output: <run>/<mesh>/<what>.
"""

import dataclasses
import pathlib
import sys

import fourm_on_devices
import jax
import numpy as np
import optax
from flax import nnx

from medjax.checkpoints import adapters, model_folder, probe
from medjax.decoding import DecodeConfig, Decoder
from medjax.errors import UserError
from medjax.models import lora
from medjax.models.build import build
from medjax.models.config import GemmaConfig, PaliGemmaConfig, SigLIPConfig
from medjax.models.fourm import FourMConfig, Modality
from medjax.models.params import flatten
from medjax.pipelines.weights import load_result
from medjax.scaling import sharding
from medjax.training.loop import Trainer
from medjax.training.objectives.paligemma import Answers

MESHES = {
    "single": {},
    "8x1x1": {"data": 8},
    "2x2x2": {"data": 2, "fsdp": 2, "tensor": -1},
    "1x8x1": {"data": 1, "fsdp": 8, "tensor": 1},
}
CONFIG = PaliGemmaConfig(
    image_size=28,
    img=SigLIPConfig(width=16, depth=2, mlp_dim=32, num_heads=2),
    llm=GemmaConfig(
        width=16, depth=2, mlp_dim=32, num_heads=4, num_kv_heads=2, head_dim=8, vocab_size=64,
        post_norms=True, attn_logits_softcap=5.0,
    ),
)  # fmt: skip
ADAPTERS = lora.LoRAConfig(rank=2, alpha=4, dropout=0.2, towers=lora.TOWERS)

FOURM = FourMConfig(
    width=16, encoder_depth=2, decoder_depth=2, num_heads=4, num_kv_heads=2,
    modalities=(
        Modality("scan", "patches", image_size=8, patch_size=4, channels=1),
        Modality("report", "sequence", 64, max_length=8),
    ),
    inputs=("scan", "report"), targets=("report",),
)  # fmt: skip


def batches() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    ends = np.array([6, 7, 8, 6, 8, 7, 8, 5])[:, None]  # ragged answers
    where = np.broadcast_to(np.arange(8), (8, 8))
    return [
        {
            "image": rng.uniform(-1, 1, (8, 28, 28, 3)).astype(np.float32),
            "tokens": rng.integers(3, 64, (8, 8)).astype(np.int32),
            "mask_ar": (where >= 4).astype(np.int32),
            "mask_loss": ((where >= 4) & (where < ends)).astype(np.int32),
        }
        for _ in range(2)
    ]


def shards(arrays: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    """The shape of one device's part of each array."""
    return {name: np.array(x.addressable_shards[0].data.shape) for name, x in arrays.items()}


def train(mesh, weights, adapted: bool) -> dict[str, np.ndarray]:
    model = build(
        CONFIG, mesh=mesh, weights=weights.items(), lora_config=ADAPTERS if adapted else None
    )
    # Adam divides by the gradients' size; a large epsilon keeps rounding of tiny ones from growing.
    optimizer = optax.adam(0.01, eps=1e-3) if adapted else optax.sgd(0.1, momentum=0.9)
    trainer = Trainer(model, Answers(), optimizer, mesh=mesh, dtype=np.dtype(np.float32), seed=1)
    metrics = [trainer.step(batch) for batch in batches()]
    result = {f"metrics/{k}": np.array([m[k] for m in metrics]) for k in metrics[0]}
    result |= {f"params/{name}": np.asarray(x) for name, x in trainer.state.params.items()}
    result |= {f"shards/{name}": x for name, x in shards(flatten(trainer.model_with())).items()}
    moments = optax.tree.get(trainer.state.opt_state, "mu" if adapted else "trace")
    return result | {f"moments/{name}": x for name, x in shards(moments).items()}


# Questions at a time, and how they are answered; no mesh divides three.
ASKED = {
    "greedy": (8, DecodeConfig(max_new_tokens=5)),
    "three": (3, DecodeConfig(max_new_tokens=5)),
    "sample": (8, DecodeConfig("sample", max_new_tokens=5, num_samples=2)),
    "beam": (8, DecodeConfig("beam", max_new_tokens=5, num_beams=2)),
}
# What one device does is compiled for each; the mesh that is cut along every axis does all, too.
ASKED_OF = {
    "single": tuple(ASKED), "8x1x1": ("three", "beam"), "2x2x2": tuple(ASKED),
    "1x8x1": ("greedy", "sample"),
}  # fmt: skip


def trained(weights, folder: pathlib.Path) -> pathlib.Path:
    """The folder of a stage's result: the weights, and adapters that change what they say."""
    rng = np.random.default_rng(5)
    config = dataclasses.replace(ADAPTERS, dropout=0.0)
    shapes = adapters.adapter_specs(CONFIG, config).items()
    low_rank = {k: rng.normal(0, 0.3, shape).astype(np.float32) for k, shape in shapes}
    model_folder.save_model(folder, CONFIG, weights | low_rank, lora_config=config)
    return folder


def answers(mesh, folder: pathlib.Path, asked: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Tokens and scores of answers, and how the answering model is cut."""
    model = load_result(folder, np.dtype(np.float32), mesh)
    batch = batches()[0]
    prompts = [batch[k] for k in ("image", "tokens", "mask_ar")]
    prompts.append((np.arange(8) < np.arange(3, 8).repeat(2)[:8, None]).astype(np.int32))
    result = {f"shards/{name}": x for name, x in shards(flatten(model)).items()}
    for name in asked:
        rows, config = ASKED[name]
        said = Decoder(model, config, eos_id=1)(*(x[:rows] for x in prompts), seed=2)
        result |= {f"tokens/{name}": said.tokens, f"scores/{name}": said.log_prob}
    return {key: np.asarray(value) for key, value in result.items()}


def fourm(mesh, folder: pathlib.Path) -> dict[str, np.ndarray]:
    """What a 4M with adapters computes that was saved from a mesh, on it and on one device."""
    config = lora.LoRAConfig(2, 6, targets=("q_proj", "k_proj"), towers=("encoder", "decoder"))
    model = build(FOURM, mesh=mesh, lora_config=config, seed=3)
    for _, layer in lora.adapters(model):
        layer.lora_b.set_value(layer.lora_b.get_value() + 0.3)
    model_folder.save_model(folder, FOURM, flatten(model), lora_config=config)
    result = {f"shards/{name}": x for name, x in shards(flatten(model)).items()}
    for name, where in {"mesh": mesh, "single": None}.items():
        again = load_result(folder, np.dtype(np.float32), where)
        result[f"logits/{name}"] = probe.run(again, probe.any_probe(FOURM))
    return result


def main(output: str) -> None:
    devices = jax.devices()
    assert len(devices) == 8, devices
    results, weights, folder = {}, None, None
    for name, sizes in MESHES.items():
        mesh = sharding.make_mesh(sizes, devices if sizes else devices[:1])
        results[f"mesh/{name}/sizes"] = np.array(list(mesh.shape.values()))
        drawn = flatten(build(CONFIG, mesh=mesh, seed=3)) if name in ("single", "2x2x2") else {}
        results |= {f"drawn/{name}/{k}": np.asarray(x) for k, x in drawn.items()}
        weights = weights or {key: np.asarray(array) for key, array in drawn.items()}
        for run in ("full", "lora"):
            outcome = train(mesh, weights, adapted=run == "lora")
            results |= {f"{run}/{name}/{key}": value for key, value in outcome.items()}
        if name in fourm_on_devices.MESHES:
            outcome = fourm_on_devices.train(mesh)
            results |= {f"fourm_training/{name}/{key}": value for key, value in outcome.items()}
        folder = folder or trained(weights, pathlib.Path(output).with_name("model"))
        said = answers(mesh, folder, ASKED_OF[name])
        results |= {f"answers/{name}/{key}": x for key, x in said.items()}
        if name == "2x2x2":
            found = fourm(mesh, pathlib.Path(output).with_name("fourm"))
            results |= {f"fourm/{key}": x for key, x in found.items()}
    errors = {}
    mesh = sharding.make_mesh({"data": 2, "fsdp": 4})
    attempts = {
        "three": lambda: sharding.make_mesh({"data": 3}),
        "three-and-rest": lambda: sharding.make_mesh({"data": 3, "fsdp": -1}),
        "two-rests": lambda: sharding.make_mesh({"data": -1, "fsdp": -1}),
        "zero": lambda: sharding.make_mesh({"data": 0, "fsdp": -1}),
        "unknown": lambda: sharding.make_mesh({"model": 8}),
        "batch": lambda: sharding.put_batch({"tokens": np.zeros((12, 3), np.int32)}, mesh),
    }
    for name, attempt in attempts.items():
        try:
            attempt()
        except UserError as error:
            errors[f"errors/{name}"] = np.array(str(error))
    put = sharding.put_batch({"tokens": np.arange(16)[:, None]}, mesh)["tokens"]
    results["batch/shards"] = np.array([s.data.ravel() for s in put.addressable_shards])
    table = nnx.Param(np.zeros((9, 16)), axes=("vocab", "embed"))
    spec = sharding.parameter_sharding(table, sharding.make_mesh({"fsdp": 4, "tensor": 2})).spec
    results["uneven/spec"] = np.array([str(axis) for axis in spec])
    np.savez(output, **results, **errors)


if __name__ == "__main__":
    main(sys.argv[1])
