"""medjax and PEFT compute the same from the same adapter; logits within 2e-5 absolute, as there."""

import json

import numpy as np
import peers
import peft as peer_peft
import pytest
import torch
import transformers
from flax import nnx

from medjax.checkpoints import adapters, huggingface, peft, probe, tensors
from medjax.models import lora, params
from medjax.models.config import GemmaConfig, PaliGemmaConfig, SigLIPConfig
from medjax.models.lora import LoRAConfig

TOLERANCE = 2e-5
CONFIG = PaliGemmaConfig(
    image_size=28,
    img=SigLIPConfig(width=24, depth=2, mlp_dim=40, num_heads=3),
    llm=GemmaConfig(
        width=32, depth=3, mlp_dim=48, num_heads=4, num_kv_heads=2, head_dim=8, vocab_size=300,
        post_norms=True, attn_logits_softcap=5.0,
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """(checkpoint, its Hugging Face folder, a probe, the base's logits)."""
    rng = np.random.default_rng(0)
    named = {
        name: (0.2 * rng.standard_normal(shape)).astype(np.float32)
        for name, shape in tensors.specs(CONFIG).items()
    }
    checkpoint = tensors.in_memory(CONFIG, named)
    folder = tmp_path_factory.mktemp("base") / "hf"
    huggingface.write_folder(checkpoint, folder)
    question = probe.make(CONFIG)
    return checkpoint, folder, question, probe.logits(checkpoint, question)


PEFT_CONFIGS = {
    "all_seven": dict(r=4, lora_alpha=12, target_modules=list(lora.TARGETS)),
    "rslora": dict(r=4, lora_alpha=3, target_modules=["q_proj", "v_proj"], use_rslora=True),
    "vision_mlp": dict(r=2, lora_alpha=5, target_modules=["fc1", "fc2", "out_proj"]),
    "llm_only": dict(r=8, lora_alpha=2, target_modules=r".*language_model.*\.(q|down)_proj"),
}


def peft_adapter(folder, path, **config) -> None:
    """Saves an adapter that PEFT made, with random A and B."""
    model = transformers.PaliGemmaForConditionalGeneration.from_pretrained(folder)
    model = peer_peft.get_peft_model(model, peer_peft.LoraConfig(**config))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(path)


@pytest.mark.parametrize("name", PEFT_CONFIGS)
def test_adapter_of_peft_comes_and_goes_back(base, name, tmp_path):
    checkpoint, folder, question, plain = base
    peft_adapter(folder, tmp_path / "theirs", **PEFT_CONFIGS[name])
    wanted = peers.huggingface_logits(folder, question, tmp_path / "theirs")
    assert np.abs(wanted - plain).max() > 1000 * TOLERANCE  # the adapter does something

    adapter = peft.open_adapter(tmp_path / "theirs")
    adapter.check(CONFIG)
    found = probe.logits(checkpoint, question, adapter)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)
    merged = probe.logits(adapters.merged(checkpoint, adapter), question)
    np.testing.assert_allclose(merged, wanted, rtol=0, atol=TOLERANCE)

    peft.write_adapter(adapter, tmp_path / "ours")
    back = peers.huggingface_logits(folder, question, tmp_path / "ours")
    np.testing.assert_allclose(back, wanted, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("towers", [("language_model",), ("language_model", "vision_tower")])
def test_adapter_of_medjax_loads_exactly_in_peft(base, towers, tmp_path):
    _, folder, question, _ = base
    config = LoRAConfig(rank=4, alpha=10, targets=("q_proj", "v_proj", "up_proj"), towers=towers)
    checkpoint = base[0]
    model = tensors.build(checkpoint)
    lora.apply(model, config, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(1)
    for _, layer in lora.adapters(model):
        shape = layer.lora_b.get_value().shape
        layer.lora_b.set_value(rng.normal(0, 0.2, shape).astype(np.float32))
    wanted = probe.run(model, question)
    _, low_rank = adapters.split(params.flatten(model))
    arrays = {name: tensors.lazy(array) for name, array in low_rank.items()}
    adapter = adapters.Adapter("trained", config, arrays, adapters.Base(str(folder)))
    peft.write_adapter(adapter, tmp_path / "adapter")

    # As many adapted modules in PEFT as here, so that none was dropped and none was added.
    loaded = transformers.PaliGemmaForConditionalGeneration.from_pretrained(folder)
    loaded = peer_peft.PeftModel.from_pretrained(loaded, str(tmp_path / "adapter"))
    here = sum(array.size for array in adapter.arrays.values())
    there = sum(p.numel() for name, p in loaded.named_parameters() if "lora_" in name)
    assert here == there
    found = peers.huggingface_logits(folder, question, tmp_path / "adapter")
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)

    data = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert data["base_model_name_or_path"] == str(folder)


def test_peft_merges_to_the_same_weights(base, tmp_path):
    checkpoint, folder, _, _ = base
    peft_adapter(folder, tmp_path / "adapter", **PEFT_CONFIGS["all_seven"])
    model = transformers.PaliGemmaForConditionalGeneration.from_pretrained(folder)
    model = peer_peft.PeftModel.from_pretrained(model, str(tmp_path / "adapter"))
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    theirs = huggingface.open_folder(tmp_path / "merged")
    ours = adapters.merged(checkpoint, peft.open_adapter(tmp_path / "adapter"))
    assert theirs.config == ours.config
    for name, array in ours:
        np.testing.assert_allclose(array, theirs.arrays[name].read(), rtol=0, atol=1e-6)
