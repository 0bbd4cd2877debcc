"""Steps and answers are the same on one device and on eight, however the mesh cuts the model."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from medjax.errors import UserError
from medjax.scaling import sharding

SCRIPT = pathlib.Path(__file__).with_name("eight_devices.py")
MESHES = ["8x1x1", "2x2x2", "1x8x1"]
RUNS = ["full", "lora"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What eight_devices.py found, in a process of its own: this one has one device."""
    output = tmp_path_factory.mktemp("eight") / "results.npz"
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, SCRIPT, output], env=environment, check=True, timeout=600)
    with np.load(output) as found:
        return dict(found)


def part(results, prefix) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in results.items() if k.startswith(prefix)}


@pytest.mark.parametrize("mesh", MESHES)
def test_sizes(results, mesh):
    assert "x".join(map(str, results[f"mesh/{mesh}/sizes"])) == mesh


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("mesh", MESHES)
def test_steps_have_the_loss_of_one_device(results, run, mesh):
    found, wanted = (part(results, f"{run}/{m}/metrics/") for m in (mesh, "single"))
    assert wanted["loss"][0] != wanted["loss"][1]
    for name in ("loss", "grad_norm", "accuracy"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=2e-5, err_msg=name)
    np.testing.assert_array_equal(
        found["tokens"], [2 * (6 + 8 + 7 + 8 + 5 + 6 + 7 + 8 - 32) / 2] * 2
    )


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("mesh", MESHES)
def test_steps_lead_to_the_parameters_of_one_device(results, run, mesh):
    found, wanted = (part(results, f"{run}/{m}/params/") for m in (mesh, "single"))
    before = part(results, "drawn/single/")
    assert len(wanted) == (len(before) if run == "full" else 2 * (7 + 3))
    for name, array in wanted.items():
        # Sums in another order differ by 1e-7; what is learnt here is 10,000 times as much.
        np.testing.assert_allclose(found[name], array, rtol=0, atol=2e-6, err_msg=name)
    learnt = [np.abs(array - before.get(name, 0)).max() for name, array in wanted.items()]
    assert np.median(learnt) > 1e-3


def test_the_mesh_changes_no_random_parameter(results):
    found, wanted = (part(results, f"drawn/{mesh}/") for mesh in ("2x2x2", "single"))
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


# Parts of [L, D, N H], [L, N H, D], [L, D, F] and [V, D]: D is cut by fsdp, the others by tensor.
SHARDS = {
    "language_model/layers/self_attn/q_proj/kernel": [(2, 16, 32), (2, 8, 16), (2, 2, 32)],
    "language_model/layers/self_attn/k_proj/kernel": [(2, 16, 16), (2, 8, 8), (2, 2, 16)],
    "language_model/layers/self_attn/o_proj/kernel": [(2, 32, 16), (2, 16, 8), (2, 32, 2)],
    "language_model/layers/mlp/up_proj/kernel": [(2, 16, 32), (2, 8, 16), (2, 2, 32)],
    "language_model/embed_tokens": [(64, 16), (32, 8), (64, 2)],
    "vision_tower/layers/mlp/fc2/kernel": [(2, 32, 16), (2, 16, 8), (2, 32, 2)],
    "language_model/final_norm/scale": [(16,), (16,), (16,)],
}


@pytest.mark.parametrize("mesh", MESHES)
def test_parameters_are_really_cut(results, mesh):
    for name, shapes in SHARDS.items():
        wanted = shapes[MESHES.index(mesh)]
        for run in RUNS:
            found = part(results, f"{run}/{mesh}/shards/")
            key = name if name in found else name.replace("/kernel", "/base/kernel")
            assert tuple(found[key]) == wanted, (run, name)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("mesh", MESHES)
def test_the_optimizers_moments_are_cut_like_their_parameters(results, run, mesh):
    parameters = part(results, f"{run}/{mesh}/shards/")
    moments = part(results, f"{run}/{mesh}/moments/")
    assert set(moments) == set(part(results, f"{run}/{mesh}/params/"))
    for name, shape in moments.items():
        np.testing.assert_array_equal(shape, parameters[name], err_msg=name)


@pytest.mark.parametrize(
    ("mesh", "asked"),
    [
        *(("2x2x2", asked) for asked in ("greedy", "three", "sample", "beam")),
        *(("8x1x1", asked) for asked in ("three", "beam")),
        *(("1x8x1", asked) for asked in ("greedy", "sample")),
    ],
)
def test_answers_are_those_of_one_device(results, mesh, asked):
    found, wanted = (part(results, f"answers/{m}/") for m in (mesh, "single"))
    assert len(np.unique(wanted[f"tokens/{asked}"])) > 3
    np.testing.assert_array_equal(found[f"tokens/{asked}"], wanted[f"tokens/{asked}"])
    np.testing.assert_allclose(found[f"scores/{asked}"], wanted[f"scores/{asked}"], rtol=1e-5)
    shape = SHARDS["language_model/layers/mlp/up_proj/kernel"][MESHES.index(mesh)]
    assert tuple(found["shards/language_model/layers/mlp/up_proj/base/kernel"]) == shape


def test_fourm_is_cut_and_computes_what_one_device_does(results):
    found = part(results, "fourm/")
    assert np.abs(found["logits/single"]).max() > 0.1
    # Sums in another order.
    np.testing.assert_allclose(found["logits/mesh"], found["logits/single"], rtol=0, atol=2e-6)
    shapes = {
        "decoder/layers/cross_attn/k_proj/base/kernel": (2, 8, 4),
        "decoder/layers/cross_attn/k_proj/lora_a": (2, 8, 2),
        "encoder/layers/mlp/up_proj/kernel": (2, 8, 32),
        "decoder_embeddings/embed_tokens/report": (32, 8),
    }
    assert {name: tuple(found[f"shards/{name}"]) for name in shapes} == shapes


def test_4m_masks_and_learns_as_on_one_device(results):
    found, wanted = (part(results, f"fourm_training/{mesh}/") for mesh in ("2x2x2", "single"))
    assert found.keys() == wanted.keys()
    assert (tuple(wanted.pop("shard")), tuple(found["shard"])) == ((1, 16, 42), (1, 8, 21))
    for name, array in wanted.items():  # sums in another order differ by 1e-7
        np.testing.assert_allclose(found[name], array, rtol=2e-5, atol=2e-6, err_msg=name)
    # What is learnt, and would be learnt otherwise with other masks, is 1000 times as much.
    learnt = part(wanted, "learnt/")
    assert np.median([np.abs(x).max() for x in learnt.values()]) > 1e-3


def test_rows_of_a_batch_are_dealt_in_order(results):
    np.testing.assert_array_equal(results["batch/shards"], np.arange(16).reshape(8, 2))


def test_an_axis_that_does_not_divide_stays_whole(results):
    assert list(results["uneven/spec"]) == ["None", "fsdp"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("three", "mesh data 3 x fsdp 1 x tensor 1 does not fit 8 devices"),
        ("three-and-rest", "mesh data 3 x fsdp -1 x tensor 1 does not fit 8 devices"),
        ("two-rests", "does not fit 8 devices"),
        ("zero", "does not fit 8 devices"),
        ("unknown", "mesh has axes data, fsdp, tensor, not model"),
        ("batch", "batch_size 12 is no multiple of mesh data x fsdp = 8"),
    ],
)
def test_errors(results, name, message):
    assert message in str(results[f"errors/{name}"])


def test_one_device():
    mesh = sharding.make_mesh({"fsdp": -1}, jax.devices()[:1])
    assert dict(mesh.shape) == {"data": 1, "fsdp": 1, "tensor": 1}
    with pytest.raises(UserError, match="mesh data 2 x fsdp 1 x tensor 1 does not fit 1 devices"):
        sharding.make_mesh({"data": 2}, jax.devices()[:1])
