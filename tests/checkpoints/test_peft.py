import dataclasses
import json
import re

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from medjax.checkpoints import adapters, hf_names, peft, tensors
from medjax.errors import UserError
from medjax.models.config import GemmaConfig, PaliGemmaConfig, SigLIPConfig
from medjax.models.lora import LoRAConfig

CONFIG = PaliGemmaConfig(
    image_size=28,
    img=SigLIPConfig(width=8, depth=3, mlp_dim=10, num_heads=2),
    llm=GemmaConfig(
        width=12, depth=2, mlp_dim=20, num_heads=4, num_kv_heads=2, head_dim=6, vocab_size=30
    ),
)
LORA = LoRAConfig(rank=3, alpha=6, targets=("q_proj", "up_proj"))
BOTH = LoRAConfig(rank=2, alpha=7, targets=("q_proj",), towers=("language_model", "vision_tower"))


def random_adapter(config=LORA, base=None) -> adapters.Adapter:
    rng = np.random.default_rng(0)
    shapes = adapters.adapter_specs(CONFIG, config)
    arrays = {n: tensors.lazy(rng.standard_normal(s).astype(np.float32)) for n, s in shapes.items()}
    return adapters.Adapter("random", config, arrays, base)


def edit_config(folder, **changes) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("config", [LORA, BOTH])
def test_there_and_back(config, tmp_path):
    adapter = random_adapter(config, adapters.Base("somewhere/hf"))
    peft.write_adapter(adapter, tmp_path / "a")
    again = peft.open_adapter(tmp_path / "a")
    again.check(CONFIG)
    assert dataclasses.replace(again.config, targets=config.targets) == config
    assert set(again.config.targets) == set(config.targets)
    assert again.base == adapter.base
    assert set(again.arrays) == set(adapter.arrays)
    for name, array in again:
        np.testing.assert_array_equal(array, adapter.arrays[name].read())


def test_layout_as_the_safetensors_library_reads_it(tmp_path):
    adapter = random_adapter()
    peft.write_adapter(adapter, tmp_path / "a")
    theirs = safetensors.numpy.load_file(tmp_path / "a" / "adapter_model.safetensors")
    prefix = "base_model.model.model.language_model.layers.1.mlp.up_proj"
    a, b = theirs[f"{prefix}.lora_A.weight"], theirs[f"{prefix}.lora_B.weight"]
    assert (a.shape, b.shape) == ((3, 12), (20, 3))
    ours = "language_model/layers/mlp/up_proj"
    np.testing.assert_array_equal(a, adapter.arrays[f"{ours}/lora_a"].read()[1].T)
    np.testing.assert_array_equal(b, adapter.arrays[f"{ours}/lora_b"].read()[1].T)
    assert len(theirs) == 2 * 2 * 2  # A and B of two targets in two layers


@pytest.mark.parametrize("config", [LORA, BOTH])
@pytest.mark.parametrize("root", ["", "model."])
def test_pattern_matches_the_adapted_modules_and_no_other(config, root, tmp_path):
    peft.write_adapter(random_adapter(config), tmp_path / "a")
    pattern = json.loads((tmp_path / "a" / "adapter_config.json").read_text())["target_modules"]
    modules = {
        name.removesuffix(".weight")
        for weight in hf_names.weights(CONFIG).values()
        for name in weight.names
    }
    matched = {name for name in modules if re.fullmatch(pattern, root + name)}
    wanted = {
        hf_names.module_path(name.removesuffix("/lora_a"), layer)
        for name, shape in adapters.adapter_specs(CONFIG, config).items()
        if name.endswith("/lora_a")
        for layer in range(shape[0])
    }
    assert matched == wanted


@pytest.mark.parametrize(
    ("ours", "older"),
    [
        ("model.language_model.layers", "language_model.model.layers"),
        ("model.vision_tower.encoder", "model.vision_tower.vision_model.encoder"),
        ("model.vision_tower.encoder", "vision_tower.vision_model.encoder"),
    ],
)
def test_older_module_names_are_read(ours, older, tmp_path):
    adapter = random_adapter(BOTH)
    peft.write_adapter(adapter, tmp_path / "a")
    path = tmp_path / "a" / "adapter_model.safetensors"
    weights = safetensors.numpy.load_file(path)
    renamed = {name.replace(ours, older): w for name, w in weights.items()}
    assert renamed.keys() != weights.keys()
    safetensors.numpy.save_file(renamed, path)
    for name, array in peft.open_adapter(tmp_path / "a"):
        np.testing.assert_array_equal(array, adapter.arrays[name].read())


def test_rslora_scales_by_the_root_of_the_rank(tmp_path):
    config = dataclasses.replace(LORA, rank=4, alpha=6)
    peft.write_adapter(random_adapter(config), tmp_path / "a")
    edit_config(tmp_path / "a", use_rslora=True)
    assert peft.open_adapter(tmp_path / "a").config.scaling == pytest.approx(6 / 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"peft_type": "IA3"},
        {"bias": "all"},
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"rank_pattern": {"q_proj": 8}},
        {"alpha_pattern": {"q_proj": 8}},
        {"init_lora_weights": "pissa"},
        {"fan_in_fan_out": True},
        {"use_something_new": True},
    ],
)
def test_what_medjax_does_not_compute_is_refused(changes, tmp_path):
    peft.write_adapter(random_adapter(), tmp_path / "a")
    edit_config(tmp_path / "a", **changes)
    with pytest.raises(UserError, match=next(iter(changes))):
        peft.open_adapter(tmp_path / "a")


def drop(weights):
    del weights["base_model.model.model.language_model.layers.0.mlp.up_proj.lora_B.weight"]


def drop_last_layer(weights):
    for name in [name for name in weights if ".layers.1." in name]:
        del weights[name]


def add_projector(weights):
    name = "base_model.model.model.multi_modal_projector.linear.lora_A.weight"
    weights[name] = np.zeros((3, 8), np.float32)


def add_magnitude(weights):
    name = "base_model.model.model.language_model.layers.0.mlp.up_proj.lora_magnitude_vector"
    weights[name] = np.zeros(20, np.float32)


def other_rank(weights):
    name = "base_model.model.model.language_model.layers.0.mlp.up_proj.lora_A.weight"
    weights[name] = np.zeros((4, 12), np.float32)


def only_one_tower(weights):
    """q_proj in the language model, k_proj in the vision tower: no product of names and towers."""
    for name in [name for name in weights if "vision_tower" in name]:
        weights[name.replace("q_proj", "k_proj")] = weights.pop(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, "lora_B of language_model/layers/mlp/up_proj, layer 0, is missing"),
        (drop_last_layer, "has shape"),
        (add_projector, "no place for .*multi_modal_projector"),
        (add_magnitude, "no place for .*magnitude"),
        (other_rank, "does not go with rank 3"),
        (only_one_tower, "missing"),
    ],
)
def test_no_adapter_is_dropped(change, message, tmp_path):
    config = dataclasses.replace(BOTH, rank=3) if change is only_one_tower else LORA
    peft.write_adapter(random_adapter(config), tmp_path / "a")
    path = tmp_path / "a" / "adapter_model.safetensors"
    weights = safetensors.numpy.load_file(path)
    change(weights)
    safetensors.numpy.save_file(weights, path)
    with pytest.raises(UserError, match=message):
        peft.open_adapter(tmp_path / "a").check(CONFIG)


def test_merging_is_float32_arithmetic():
    rng = np.random.default_rng(1)
    named = {
        name: rng.standard_normal(shape).astype(ml_dtypes.bfloat16)
        for name, shape in tensors.specs(CONFIG).items()
    }
    base, adapter = tensors.in_memory(CONFIG, named), random_adapter()
    name = "language_model/layers/mlp/up_proj"
    a, b = (
        adapter.arrays[f"{name}/{leaf}"].read().astype(np.float64) for leaf in ("lora_a", "lora_b")
    )
    wanted = named[f"{name}/kernel"].astype(np.float64) + 6 / 3 * (a @ b)
    exact = adapters.merged(base, adapter, np.dtype(np.float32)).arrays[f"{name}/kernel"].read()
    assert exact.dtype == np.float32
    np.testing.assert_allclose(exact, wanted, rtol=0, atol=1e-5)
    rounded = adapters.merged(base, adapter)
    for key, array in rounded:
        assert array.dtype == ml_dtypes.bfloat16
        if key not in (f"{name}/kernel", "language_model/layers/self_attn/q_proj/kernel"):
            np.testing.assert_array_equal(array, named[key])
    found = rounded.arrays[f"{name}/kernel"].read()
    np.testing.assert_array_equal(found, exact.astype(ml_dtypes.bfloat16))
