"""The official models: their names, sizes and exact numbers of parameters, without their memory."""

import dataclasses
import json

import pytest
import torch
import transformers

from medjax.checkpoints import hf_config, tensors
from medjax.errors import UserError
from medjax.models import config as model_config
from medjax.models.variants import PADDED_VOCAB_SIZE, VARIANTS, VOCAB_SIZE, resolve

NAMES = [
    f"{name}-{size}"
    for name in ("paligemma-3b", "paligemma2-3b", "paligemma2-10b", "paligemma2-28b")
    for size in (224, 448, 896)
]


def count(config) -> int:
    total = 0
    for shape in tensors.specs(config).values():
        size = 1
        for side in shape:
            size *= side
        total += size
    return total


def formula(config) -> int:
    """The same number from the papers' sizes, added up by hand."""
    img, llm = config.img, config.llm
    norm = 2 * img.width
    attention = 4 * (img.width * img.width + img.width)
    mlp = 2 * img.width * img.mlp_dim + img.mlp_dim + img.width
    patches = (3 * 14 * 14 + 1) * img.width + (config.image_size // 14) ** 2 * img.width
    vision = patches + img.depth * (2 * norm + attention + mlp) + norm
    projector = (img.width + 1) * llm.width
    heads = 2 * llm.num_heads + 2 * llm.num_kv_heads
    norms = 4 if llm.post_norms else 2
    layer = heads * llm.head_dim * llm.width + 3 * llm.width * llm.mlp_dim + norms * llm.width
    language = llm.vocab_size * llm.width + llm.depth * layer + llm.width
    return vision + projector + language


def test_there_are_twelve():
    assert list(VARIANTS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_official_model_is_built_abstractly(name):
    config = resolve(name)
    assert config.llm.vocab_size == PADDED_VOCAB_SIZE == 257_216
    assert count(config) == formula(config)


def test_paligemma_3b_has_its_exact_size():
    assert count(resolve("paligemma-3b-224")) == 2_923_466_480


@pytest.mark.parametrize("name", ["paligemma-3b-224", "paligemma2-3b-448", "paligemma2-28b-224"])
def test_sizes_are_those_of_transformers(name):
    config = resolve(name)
    data = hf_config.to_dict(
        config, dtype="float32", image_token_id=VOCAB_SIZE,
        special_ids={"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0},
    )  # fmt: skip
    with torch.device("meta"):
        peer = transformers.PaliGemmaForConditionalGeneration(
            transformers.PaliGemmaConfig.from_dict(data)
        )
    assert count(config) == sum(p.numel() for p in peer.parameters())


@pytest.mark.parametrize(
    ("name", "width", "depth", "scale_dim"),
    [
        ("paligemma-3b-224", 2048, 18, 256),
        ("paligemma2-3b-224", 2304, 26, 256),
        ("paligemma2-10b-224", 3584, 42, 256),
        ("paligemma2-28b-224", 4608, 46, 144),
    ],
)
def test_published_sizes(name, width, depth, scale_dim):
    llm = resolve(name).llm
    assert (llm.width, llm.depth, llm.query_scale) == (width, depth, scale_dim**-0.5)
    caps = (llm.attn_logits_softcap, llm.final_logits_softcap)
    assert caps == ((50.0, 30.0) if llm.post_norms else (None, None))


def test_image_size_overrides():
    assert resolve("paligemma-3b-224", 448) == VARIANTS["paligemma-3b-448"]
    assert resolve("paligemma2-3b-896").num_patches == 4096
    with pytest.raises(UserError, match="image_size 225"):
        resolve("paligemma-3b-224", 225)


def test_files_and_mappings(tmp_path):
    llm = dataclasses.replace(VARIANTS["paligemma-3b-224"].llm, depth=1, vocab_size=300)
    config = dataclasses.replace(VARIANTS["paligemma-3b-224"], llm=llm)
    data = model_config.to_dict(config)
    path = tmp_path / "model.json"
    path.write_text(json.dumps(data))
    assert resolve(str(path)) == resolve(data) == config
    assert resolve(str(path), 448).image_size == 448
    del data["image_size"]
    assert resolve(data, 448).image_size == 448
    with pytest.raises(UserError, match="image_size"):
        resolve(data)


def test_unknown_names_list_the_known():
    with pytest.raises(UserError, match=r"'paligemma-7b' is neither.*paligemma2-28b-896"):
        resolve("paligemma-7b")
