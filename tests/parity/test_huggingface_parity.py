"""medjax and transformers compute the same from the same weights.

Logits are compared at 2e-5 absolute: they are of order 1 to 10, sums of float32 products in another
order, and both sides compute in float32.
"""

import dataclasses

import jax
import numpy as np
import peers
import pytest
import torch
import transformers
from flax import nnx
from PIL import Image

from medjax.checkpoints import huggingface, probe, tensors
from medjax.checkpoints.tensors import Checkpoint
from medjax.data.prompts import pack_prompt
from medjax.data.tokenizer import train_tokenizer
from medjax.decoding import DecodeConfig, decode
from medjax.models.config import GemmaConfig, PaliGemmaConfig, SigLIPConfig

TOLERANCE = 2e-5
IMG = SigLIPConfig(width=24, depth=2, mlp_dim=40, num_heads=3)
GEMMA1 = GemmaConfig(
    width=32, depth=3, mlp_dim=48, num_heads=4, num_kv_heads=1, head_dim=8, vocab_size=300
)
GEMMA2 = dataclasses.replace(GEMMA1, num_kv_heads=2, post_norms=True)
LLMS = {
    "gemma1-mqa": GEMMA1,
    "gemma1-gqa-final_softcap": dataclasses.replace(
        GEMMA1, num_kv_heads=2, final_logits_softcap=3.0
    ),
    "gemma1-mha": dataclasses.replace(GEMMA1, num_kv_heads=4),
    "gemma2-no_softcaps": GEMMA2,
    "gemma2-softcaps": dataclasses.replace(
        GEMMA2, attn_logits_softcap=1.5, final_logits_softcap=3.0
    ),
    "gemma2-mha-query_scale": dataclasses.replace(
        GEMMA2, num_kv_heads=4, head_dim=16, query_scale_dim=8, attn_logits_softcap=5.0
    ),
    "gemma2-wide_heads": dataclasses.replace(GEMMA2, head_dim=20, query_scale_dim=50),
}


def random_checkpoint(config: PaliGemmaConfig, tokenizer=None, seed: int = 0) -> Checkpoint:
    """A model in which every parameter, norms and biases included, is random and matters."""
    rng = np.random.default_rng(seed)
    named = {
        name: (0.2 * rng.standard_normal(shape)).astype(np.float32)
        for name, shape in tensors.specs(config).items()
    }
    return tensors.in_memory(config, named, tokenizer)


@pytest.mark.parametrize("name", LLMS)
def test_exported_model_has_the_same_logits(name, tmp_path):
    config = PaliGemmaConfig(image_size=42, img=IMG, llm=LLMS[name])
    checkpoint = random_checkpoint(config)
    huggingface.write_folder(checkpoint, tmp_path / "hf")
    question = probe.make(config)
    wanted = probe.logits(checkpoint, question)
    # The peer refuses missing and unexpected keys.
    found = peers.huggingface_logits(tmp_path / "hf", question)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)
    assert np.ptp(wanted) > 1  # the comparison means something


def test_softcaps_matter_in_these_models():
    config = PaliGemmaConfig(image_size=42, img=IMG, llm=LLMS["gemma2-softcaps"])
    checkpoint = random_checkpoint(config)
    question = probe.make(config)
    wanted = probe.logits(checkpoint, question)
    for field in ("attn_logits_softcap", "final_logits_softcap"):
        llm = dataclasses.replace(config.llm, **{field: None})
        other = dataclasses.replace(checkpoint, config=dataclasses.replace(config, llm=llm))
        assert probe.difference(probe.logits(other, question), wanted) > 100 * TOLERANCE


def transformers_model(kind: str, **text) -> transformers.PaliGemmaForConditionalGeneration:
    config = transformers.PaliGemmaConfig(
        text_config={
            "model_type": kind, "hidden_size": 32, "num_hidden_layers": 3, "vocab_size": 320,
            "intermediate_size": 48, "num_attention_heads": 4, "head_dim": 8, **text,
        },
        vision_config={
            "model_type": "siglip_vision_model", "hidden_size": 24, "intermediate_size": 40,
            "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 42, "patch_size": 14,
            "vision_use_head": False,
        },
        projection_dim=32, hidden_size=32, vocab_size=320, image_token_index=319,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.PaliGemmaForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize(
    ("kind", "text", "shard_size"),
    [
        ("gemma", {"num_key_value_heads": 1}, "1GB"),
        ("gemma2", {"num_key_value_heads": 2, "query_pre_attn_scalar": 6}, "50KB"),
        ("gemma2", {"num_key_value_heads": 4, "query_pre_attn_scalar": 8,
                    "final_logit_softcapping": None, "attn_logit_softcapping": 2.0}, "1GB"),
    ],
)  # fmt: skip
def test_saved_by_transformers_has_the_same_logits(kind, text, shard_size, tmp_path):
    transformers_model(kind, **text).save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (tmp_path / "model.safetensors").exists() == (shard_size == "1GB")
    checkpoint = huggingface.open_folder(tmp_path)
    question = probe.make(checkpoint.config, prefix=7, suffix=5)
    found = probe.logits(checkpoint, question)
    wanted = peers.huggingface_logits(tmp_path, question)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_weights_pass_unchanged(dtype, tmp_path):
    model = transformers_model("gemma2", num_key_value_heads=2, query_pre_attn_scalar=8)
    model.to(getattr(torch, dtype)).save_pretrained(tmp_path / "a")
    checkpoint = huggingface.open_folder(tmp_path / "a")
    huggingface.write_folder(checkpoint, tmp_path / "b", copy_from=tmp_path / "a")
    again = transformers.PaliGemmaForConditionalGeneration.from_pretrained(tmp_path / "b")
    assert again.dtype == getattr(torch, dtype)
    wanted = model.state_dict()
    assert all(torch.equal(wanted[name], value) for name, value in again.state_dict().items())
    question = probe.make(checkpoint.config)
    np.testing.assert_allclose(
        probe.logits(checkpoint, question),
        peers.huggingface_logits(tmp_path / "a", question),
        rtol=0,
        atol=TOLERANCE,
    )


TEXTS = [
    "what plane is this? axial", "detect brain", "how much grey matter is seen? 23 %",
    "caption en", "a sagittal slice of the head\nlevel 3  of 10",
]  # fmt: skip


@pytest.fixture(scope="module", params=["gemma1-mqa", "gemma2-softcaps"])
def exported(request, tmp_path_factory):
    """(medjax's model, its tokenizer, the exported folder)."""
    folder = tmp_path_factory.mktemp("exported")
    tokenizer = train_tokenizer(TEXTS, folder / "tokenizer.model", vocab_size=330)
    llm = dataclasses.replace(LLMS[request.param], vocab_size=tokenizer.vocab_size)
    config = PaliGemmaConfig(image_size=42, img=IMG, llm=llm)
    checkpoint = random_checkpoint(config, folder / "tokenizer.model", seed=3)
    # A text that does not drown in its own embedding: answers are not one token, repeated.
    quiet = checkpoint.arrays["language_model/embed_tokens"].read() / 8
    arrays = {**checkpoint.arrays, "language_model/embed_tokens": tensors.lazy(quiet)}
    checkpoint = dataclasses.replace(checkpoint, arrays=arrays)
    huggingface.write_folder(checkpoint, folder / "hf")
    return tensors.build(checkpoint), tokenizer, folder / "hf"


def test_generate_gives_the_same_greedy_tokens(exported):
    model, tokenizer, folder = exported
    prompts = ["detect brain", "what plane is seen?", "how much grey matter <loc0012> is this"]
    side, new = model.config.image_size, 12
    pixels = np.random.default_rng(0).integers(0, 256, (len(prompts), side, side, 3), np.uint8)
    packed = [pack_prompt(tokenizer, prompt, 40) for prompt in prompts]
    arrays = [
        np.stack([getattr(p, k) for p in packed]) for k in ("tokens", "mask_ar", "mask_input")
    ]
    with jax.default_matmul_precision("highest"):
        images = (pixels / 127.5 - 1).astype(np.float32)
        config = DecodeConfig(max_new_tokens=new)
        answers = nnx.jit(decode, static_argnums=5, static_argnames="eos_id")(
            model, images, *arrays, config, eos_id=tokenizer.eos_id
        )

    peer = transformers.PaliGemmaForConditionalGeneration.from_pretrained(
        folder, attn_implementation="eager"
    )
    processor = transformers.AutoProcessor.from_pretrained(folder)
    distinct = set()
    for row, prompt in enumerate(prompts):
        inputs = processor(
            text=f"<image>{prompt}", images=Image.fromarray(pixels[row]), return_tensors="pt"
        )
        inputs.pop("labels", None)
        text = inputs["input_ids"][0, model.config.num_patches :].numpy()
        np.testing.assert_array_equal(text, packed[row].tokens[packed[row].mask_input == 1])
        out = peer.generate(**inputs, max_new_tokens=new, do_sample=False)
        out = out[0, inputs["input_ids"].shape[1] :].numpy()
        mine = np.asarray(answers.tokens[row])[: int(answers.lengths[row])]
        np.testing.assert_array_equal(out[: len(mine)], mine)
        assert len(out) == len(mine)
        distinct |= set(mine.tolist())
    assert len(distinct) > 2  # no constant answer


def test_exported_tokenizer_reads_text_as_medjax_does(exported):
    _, tokenizer, folder = exported
    peer = transformers.AutoTokenizer.from_pretrained(folder)
    rng = np.random.default_rng(0)
    words = [*" ".join(TEXTS).split(" "), "", "\n", "<loc0012>", "<seg003>", "Größe", "日本", "zz"]
    for _ in range(200):
        text = " ".join(rng.choice(words, rng.integers(1, 12)))
        ids = tokenizer.encode(text, allow_special=True)
        assert peer(text, add_special_tokens=False)["input_ids"] == ids
        assert peer.decode(ids) == text
    assert peer.convert_tokens_to_ids("<image>") == tokenizer.vocab_size
    assert (peer.bos_token_id, peer.eos_token_id, peer.pad_token_id) == (2, 1, 0)
