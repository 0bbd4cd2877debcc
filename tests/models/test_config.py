"""Model configs: big_vision's words and medjax's own, and every way to get them wrong."""

import dataclasses
import json
import pathlib

import pytest

from medjax.errors import UserError
from medjax.models import config as model_config
from medjax.models.config import GemmaConfig, PaliGemmaConfig, SigLIPConfig

REFERENCE = pathlib.Path(__file__).parents[1] / "reference"
OWN = {
    "image_size": 28,
    "img": {"width": 8, "depth": 2, "mlp_dim": 16, "num_heads": 2},
    "llm": {
        "width": 16, "depth": 2, "mlp_dim": 32, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8,
        "vocab_size": 64,
    },
}  # fmt: skip
CONFIG = PaliGemmaConfig(
    image_size=28,
    img=SigLIPConfig(width=8, depth=2, mlp_dim=16, num_heads=2, patch_size=14),
    llm=GemmaConfig(
        width=16, depth=2, mlp_dim=32, num_heads=4, num_kv_heads=2, head_dim=8, vocab_size=64
    ),
)


def changed(**changes) -> dict:
    """OWN with `tower__key=value` set, or `key=value` at the top."""
    data = json.loads(json.dumps(OWN))
    for key, value in changes.items():
        *tower, key = key.split("__")
        (data[tower[0]] if tower else data)[key] = value
    return data


def test_own_words():
    assert model_config.from_dict(OWN) == CONFIG
    assert (CONFIG.num_patches, CONFIG.generation) == (4, 1)
    assert CONFIG.llm.query_scale == 8**-0.5


def test_big_visions_words():
    first = model_config.load(REFERENCE / "paligemma1" / "config.json")
    second = model_config.load(REFERENCE / "paligemma2" / "config.json")
    assert first == PaliGemmaConfig(
        image_size=56,
        img=SigLIPConfig(width=32, depth=2, mlp_dim=64, num_heads=4, patch_size=14),
        llm=GemmaConfig(
            width=48, depth=3, mlp_dim=96, num_heads=4, num_kv_heads=1, head_dim=16, vocab_size=320
        ),
    )
    # The file says final_logits_softcap 0.0, which is big_vision's word for none.
    llm = dataclasses.replace(
        first.llm, num_kv_heads=2, attn_logits_softcap=5.0, final_logits_softcap=None,
        post_norms=True,
    )  # fmt: skip
    assert second == dataclasses.replace(first, llm=llm)
    assert (first.generation, second.generation) == (1, 2)


@pytest.mark.parametrize(
    ("name", "scale_dim"), [("rsqrt_head_dim", 8), ("rsqrt_emb_per_head", 16 // 4)]
)
def test_query_scaling(name, scale_dim):
    config = model_config.from_dict(changed(llm__query_pre_attn_norm=name))
    assert config.llm.query_scale == scale_dim**-0.5


def test_one_computation_has_one_spelling():
    assert model_config.from_dict(changed(llm__query_scale_dim=8)) == CONFIG
    narrow = changed(llm__query_pre_attn_norm="rsqrt_emb_per_head", llm__head_dim=16 // 4)
    assert model_config.from_dict(narrow).llm.query_scale_dim is None


def test_square_patches_may_be_a_pair():
    assert model_config.from_dict(changed(img__patch_size=[14, 14])) == CONFIG


def test_round_trip(tmp_path):
    llm = dataclasses.replace(
        CONFIG.llm, post_norms=True, attn_logits_softcap=50.0, final_logits_softcap=30.0,
        query_scale_dim=4,
    )  # fmt: skip
    config = dataclasses.replace(CONFIG, llm=llm)
    assert model_config.from_dict(model_config.to_dict(config)) == config
    path = tmp_path / "config.json"
    path.write_text(json.dumps(model_config.to_dict(config)))
    assert model_config.load(path) == config


def test_from_dict_leaves_its_argument_alone():
    data = changed(llm__query_pre_attn_norm="rsqrt_emb_per_head", bos=2)
    before = json.dumps(data)
    model_config.from_dict(data)
    assert json.dumps(data) == before


BAD = {
    "unknown": (changed(llm__experts=8), r"GemmaConfig has unknown keys \['experts'\]"),
    "unknown at the top": (changed(audio=1), r"PaliGemmaConfig has unknown keys \['audio'\]"),
    "missing": (changed(img={"width": 8}), r"lacks \['depth', 'mlp_dim', 'num_heads'\]"),
    "no towers": ({"image_size": 28}, "SigLIPConfig"),
    "query scaling": (changed(llm__query_pre_attn_norm="none"), "query_pre_attn_norm 'none'"),
    "norm epsilon": (changed(llm__norm_eps=1e-5), "norm_eps must be 1e-06"),
    "pooling": (changed(img__pool_type="map"), "pool_type must be 'none'"),
    "positions": (changed(img__posemb="sincos2d"), "posemb must be 'learn'"),
    "oblong patches": (changed(img__patch_size=[14, 16]), "not square"),
    "image size": (changed(image_size=30), "image_size 30 is no multiple of img.patch_size 14"),
    "image heads": (changed(img__num_heads=3), "img.width 8 is no multiple of img.num_heads 3"),
    "key heads": (changed(llm__num_kv_heads=3), "llm.num_heads 4 is no multiple"),
    "odd heads": (changed(llm__head_dim=7), "head_dim 7 is odd"),
    "no width": ({**OWN, "llm": {"query_pre_attn_norm": "rsqrt_emb_per_head"}}, "width"),
    "no mapping": ({**OWN, "llm": "gemma"}, "llm"),
    "text for a number": (changed(llm__width="wide"), "llm.width"),
    "nought": (changed(llm__depth=0), "llm.depth"),
    "yes for a number": (changed(llm__depth=True), "llm.depth"),
    "a number for yes": (changed(llm__post_norms=2), "llm.post_norms"),
    "no patches": (changed(img__patch_size=0), "img.patch_size is 0"),
    "fraction": (changed(image_size=28.5), "image_size"),
}


@pytest.mark.parametrize(("data", "message"), BAD.values(), ids=BAD.keys())
def test_bad_configs(data, message):
    with pytest.raises(UserError, match=message):
        model_config.from_dict(data)


@pytest.mark.parametrize("text", [None, "{", "[1, 2]", '{"img": {}}'])
def test_bad_files_are_named(text, tmp_path):
    path = tmp_path / "model.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=r"model\.json"):
        model_config.load(path)
