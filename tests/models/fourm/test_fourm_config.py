"""Configs that do not add up are refused; official sizes are the original's."""

import dataclasses
import math

import pytest

from medjax.checkpoints import tensors
from medjax.errors import UserError
from medjax.models.fourm import VARIANTS, Modality, variant


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "width is 0"),
        ({"encoder_depth": 0}, "encoder_depth is 0"),
        ({"mlp_ratio": math.inf}, "mlp_ratio is inf"),
        ({"num_heads": 3}, "width 16 is no multiple of num_heads 3"),
        ({"num_kv_heads": 3}, "num_heads 4 is no multiple of num_kv_heads 3"),
        ({"num_kv_heads": 0}, "num_heads 4 is no multiple of num_kv_heads 0"),
        ({"activation": "relu"}, "activation 'relu' is none of gelu, silu"),
        ({"num_register_tokens": -1}, "num_register_tokens is -1"),
        ({"inputs": ()}, "inputs must name at least one"),
        ({"inputs": ("scan", "scan")}, "inputs repeat"),
        ({"targets": ("report", "sound")}, "targets: 'sound' is none of scan"),
        ({"targets": ("report", "scan")}, "targets: 'scan' .* no ids to predict"),
        ({"inputs": ("scan",)}, "modalities prior are neither among inputs nor targets"),
        ({"width": 18, "num_heads": 3}, "width 18 is no multiple of 4"),
    ],
)
def test_what_does_not_add_up_is_refused(config, changes, message):
    with pytest.raises(UserError, match=message):
        config(**changes)


@pytest.mark.parametrize("name", ["base", "lora_a", "lora_b"])
def test_names_by_which_adapters_are_known(config, name):
    modalities = (*config().modalities[:-1], Modality(name, "sequence", 5, max_length=2))
    with pytest.raises(UserError, match=f"a modality cannot be called '{name}'"):
        config(modalities=modalities, inputs=(name,), targets=(name,))


def test_names_of_modalities_are_unique(config):
    modalities = (*config().modalities, Modality("report", "sequence", 5, max_length=2))
    with pytest.raises(UserError, match="modalities repeat"):
        config(modalities=modalities)


def test_sizes_that_follow_from_others(config):
    assert config().kv_heads == 4
    assert config(num_kv_heads=2).kv_heads == 2
    assert config().head_dim == 4
    assert config().mlp_dim == 64
    assert config(gated=True).mlp_dim == 42  # int(2 / 3 * 64)
    assert config().index("report") == 2


MODALITIES_7 = ("tok_rgb@224", "tok_depth@224", "tok_normal@224", "tok_semseg@224", "tok_clip@224")


def blocks_of(name: str) -> int:
    """Parameters of a variant without its embeddings."""
    config = variant(name, ["rgb@224"], ["tok_rgb@224"])
    return sum(
        _size(shape)
        for name, shape in tensors.specs(config).items()
        if name.startswith(("encoder/layers", "decoder/layers"))
    )


def _size(shape) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


@pytest.mark.parametrize(
    ("name", "width", "depth"),
    [("fm_tiny_6e_6d_gelu", 384, 6), ("fm_base_12e_12d_gelu", 768, 12),
     ("fm_xlarge_24e_24d_gelu", 2048, 24)],
)  # fmt: skip
def test_official_sizes(name, width, depth):
    # Attention 4 D^2, MLP 8 D^2, once more 4 D^2 to look at the context; the rest are vectors.
    matrices = depth * width**2 * (12 + 16)
    vectors = depth * width * ((9 + 4) + (9 + 4 + 4 + 4))
    assert blocks_of(name) == matrices + vectors
    assert len(VARIANTS) == 15


def test_variants_differ_from_gelu_where_they_say():
    plain = variant("fm_base_12e_12d_gelu", ["rgb@224"], MODALITIES_7)
    gated = variant("fm_base_12e_12d_swiglu_qknorm_nobias", ["rgb@224"], MODALITIES_7)
    fields = ("gated", "qk_norm", "qkv_bias", "proj_bias", "mlp_bias", "norm_bias")
    assert [getattr(plain, field) for field in fields] == [False] * 2 + [True] * 4
    assert [getattr(gated, field) for field in fields] == [True] * 2 + [False] * 4
    assert gated.mlp_dim == 2048
    assert gated.activation == "silu"
    assert variant("fm_base_12e_12d_gelu", ["rgb@224"], MODALITIES_7, num_kv_heads=3).kv_heads == 3
    assert plain.names == ("rgb@224", *MODALITIES_7)
    with pytest.raises(UserError, match="model 'fm_huge' is none of fm_tiny"):
        variant("fm_huge", ["rgb@224"], MODALITIES_7)


def test_a_new_modality_is_one_entry():
    table = {"mri": Modality("mri", "patches", image_size=64, patch_size=8, channels=1)}
    table["tok_tissue"] = Modality("tok_tissue", "image_tokens", 64, image_size=64, patch_size=8)
    config = variant("fm_tiny_6e_6d_gelu", ["mri"], ["tok_tissue"], modalities=table)
    shapes = tensors.specs(dataclasses.replace(config, encoder_depth=1, decoder_depth=1))
    assert shapes["encoder_embeddings/projection/mri/kernel"] == (64, 384)
    assert shapes["decoder_embeddings/embed_tokens/tok_tissue"] == (64, 384)
