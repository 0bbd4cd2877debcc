"""Official 4M folders: what is read, what is written, and what is refused.

That the names are the original's is seen on recorded sets, in parity/test_fourm_parity.py.
"""

import dataclasses
import json
import struct

import numpy as np
import pytest

from medjax.checkpoints import fourm, fourm_config, fourm_names, tensors
from medjax.checkpoints.safetensors_files import open_file, write_file
from medjax.checkpoints.tensors import LazyArray, lazy
from medjax.errors import UserError
from medjax.models.fourm import FourMConfig, Modality, variant

TABLE = {
    modality.name: modality
    for modality in (
        Modality("scan", "patches", image_size=8, patch_size=4, channels=1),
        Modality("report", "sequence", 17, max_length=8),
        Modality("prior", "sequence_embeddings", max_length=3, channels=5),
        Modality("tok", "image_tokens", 9, image_size=8, patch_size=4, learned_positions=True),
    )
}
PLAIN = FourMConfig(
    width=16, encoder_depth=2, decoder_depth=3, num_heads=2, modalities=tuple(TABLE.values()),
    inputs=("scan", "report", "prior"), targets=("report", "tok"),
)  # fmt: skip
OTHER = dataclasses.replace(
    PLAIN, gated=True, activation="silu", qk_norm=True, num_register_tokens=2,
    qkv_bias=False, proj_bias=False, mlp_bias=False, norm_bias=False,
    share_modality_embeddings=False, tie_embeddings=False, separate_modalities=False,
)  # fmt: skip


def random_checkpoint(config: FourMConfig):
    rng = np.random.default_rng(0)
    shapes = tensors.specs(config)
    named = {n: rng.standard_normal(shape).astype(np.float32) for n, shape in shapes.items()}
    return tensors.in_memory(config, named)


def official(**changes) -> dict:
    return fourm_config.to_dict(PLAIN) | changes


@pytest.mark.parametrize("config", [PLAIN, OTHER], ids=["plain", "other"])
def test_written_and_read_back(config, tmp_path):
    checkpoint = random_checkpoint(config)
    fourm.write_folder(checkpoint, tmp_path / "model")
    found = fourm.open_folder(tmp_path / "model", modalities=TABLE)
    assert found.config == config
    for name, array in checkpoint:
        np.testing.assert_array_equal(found.arrays[name].read(), array, err_msg=name)
    with pytest.raises(UserError, match="not empty"):
        fourm.write_folder(checkpoint, tmp_path / "model")
    fourm.write_folder(checkpoint.astype(tensors.DTYPES["bfloat16"]), tmp_path / "model",
                       overwrite=True)  # fmt: skip
    half = fourm.open_folder(tmp_path / "model", modalities=TABLE)
    assert {array.dtype for array in half.arrays.values()} == {tensors.DTYPES["bfloat16"]}


def test_names_and_shapes_of_what_the_recorded_sets_lack(tmp_path):
    fourm.write_folder(random_checkpoint(OTHER), tmp_path / "model")
    shapes = {n: a.shape for n, a in open_file(tmp_path / "model" / fourm.WEIGHTS).items()}
    wanted = {
        "encoder_embeddings.prior.emb_proj.weight": (16, 5),
        "encoder_embeddings.prior.emb_proj.bias": (16,),
        "encoder_embeddings.prior.pos_emb": (1, 512, 16),
        "decoder_embeddings.tok.pos_emb": (1, 4, 16),
        "decoder_embeddings.tok.mod_emb": (1, 1, 16),
        "decoder_embeddings.tok.to_logits.weight": (9, 16),
        "encoder.1.norm2.bias": (16,),
        "decoder.2.cross_attn.k_norm.bias": (8,),
    }
    assert {name: shapes[name] for name in wanted} == wanted


def test_queries_keys_and_values_are_stacked_in_this_order():
    checkpoint = random_checkpoint(PLAIN)
    arrays = dict(fourm.to_tensors(checkpoint))
    q, k, v = (
        checkpoint.arrays[f"decoder/layers/self_attn/{n}_proj/kernel"].read()[1] for n in "qkv"
    )
    np.testing.assert_array_equal(
        arrays["decoder.1.self_attn.qkv.weight"], np.concatenate([q.T, k.T, v.T])
    )
    k, v = (checkpoint.arrays[f"decoder/layers/cross_attn/{n}_proj/bias"].read()[2] for n in "kv")
    np.testing.assert_array_equal(arrays["decoder.2.cross_attn.kv.bias"], np.concatenate([k, v]))


def test_whether_output_layers_are_tied_is_seen_from_the_weights():
    arrays = {name: lazy(array) for name, array in fourm.to_tensors(random_checkpoint(PLAIN))}
    assert fourm.from_tensors(arrays, PLAIN, "here").config.tie_embeddings
    loose = dataclasses.replace(PLAIN, tie_embeddings=False)
    assert fourm.from_tensors(arrays, loose, "here").config.tie_embeddings
    head = "decoder_embeddings.tok.to_logits.weight"
    arrays[head] = lazy(arrays[head].read() + 1)
    assert not fourm.from_tensors(arrays, PLAIN, "here").config.tie_embeddings


@pytest.mark.parametrize(
    ("config", "name", "message"),
    [
        (PLAIN, "decoder_embeddings.report.mod_emb",
         "encoder_embeddings.report.mod_emb and decoder_embeddings.report.mod_emb are one"),
        (PLAIN, "encoder_embeddings.scan.pos_emb", "scan.pos_emb is not what 4M computes"),
        (OTHER, "decoder.1.query_norm.bias", "query_norm.bias is not what 4M computes"),
    ],
)  # fmt: skip
def test_tensors_that_medjax_cannot_keep(config, name, message):
    arrays = {n: lazy(array) for n, array in fourm.to_tensors(random_checkpoint(config))}
    arrays[name] = lazy(arrays[name].read() + 0.01)
    with pytest.raises(UserError, match=f"here: .*{message}"):
        fourm.from_tensors(arrays, config, "here")


def test_a_file_in_half_precision_has_positions_in_half_precision():
    half = tensors.DTYPES["bfloat16"]
    arrays = {n: lazy(array) for n, array in fourm.to_tensors(random_checkpoint(PLAIN))}
    found = fourm.from_tensors({n: a.astype(half) for n, a in arrays.items()}, PLAIN, "here")
    assert found.arrays["decoder/mask_token"].dtype == half


def test_shapes_that_are_not_the_configs():
    arrays = {name: lazy(array) for name, array in fourm.to_tensors(random_checkpoint(PLAIN))}
    wide = dataclasses.replace(PLAIN, mlp_ratio=2.0)
    with pytest.raises(UserError, match=r"fc1.weight has shape \(64, 16\), .* asks for \(32, 16\)"):
        fourm.from_tensors(arrays, wide, "here")
    deep = dataclasses.replace(PLAIN, encoder_depth=3)
    with pytest.raises(UserError, match=r"12 missing \['encoder.2.attn.proj.bias'"):
        fourm.from_tensors(arrays, deep, "here")


def test_a_shared_tensor_may_be_written_once(tmp_path):
    """As safetensors' save_model does, which notes the other name."""
    fourm.write_folder(random_checkpoint(PLAIN), tmp_path / "model")
    file = tmp_path / "model" / fourm.WEIGHTS
    arrays = {n: LazyArray(a.shape, a.dtype, a.read) for n, a in open_file(file).items()}
    twin, kept = (f"{side}_embeddings.report.mod_emb" for side in ("decoder", "encoder"))
    del arrays[twin]
    write_file(tmp_path / "less", arrays)
    raw = (tmp_path / "less").read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])

    def rewritten(metadata: dict) -> bytes:
        text = json.dumps(header | {"__metadata__": metadata}).encode()
        return struct.pack("<Q", len(text)) + text + raw[8 + length :]

    file.write_bytes(rewritten({"format": "pt", twin: kept}))
    found = fourm.open_folder(tmp_path / "model", modalities=TABLE)
    for name, array in random_checkpoint(PLAIN):
        np.testing.assert_array_equal(found.arrays[name].read(), array, err_msg=name)
    file.write_bytes(rewritten({"format": "pt"}))
    with pytest.raises(UserError, match=rf"1 missing \['{twin}'\]"):
        fourm.open_folder(tmp_path / "model", modalities=TABLE)
    file.write_bytes(rewritten({"format": 5}))
    with pytest.raises(UserError, match="metadata are damaged"):
        fourm.open_folder(tmp_path / "model", modalities=TABLE)


def test_what_the_original_lacks_is_not_written(tmp_path):
    checkpoint = random_checkpoint(dataclasses.replace(PLAIN, num_kv_heads=1))
    with pytest.raises(UserError, match=r"no grouped-query attention; .* 2 heads and 1 key"):
        fourm.write_folder(checkpoint, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_no_folder_and_no_config(tmp_path):
    with pytest.raises(UserError, match=r"no folder; a 4M model is one, with a config\.json"):
        fourm.open_folder(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        fourm.open_folder(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match=r"config\.json is not a JSON object"):
        fourm.open_folder(tmp_path)


def test_an_official_config():
    """In the words of apple/ml-4m's FM, with what it says about training, for 4M-7 and 4M-21."""
    data = {
        "dim": 768, "encoder_depth": 12, "decoder_depth": 12, "num_heads": 12, "mlp_ratio": 4.0,
        "qkv_bias": False, "proj_bias": False, "mlp_bias": False, "norm_bias": False,
        "act_layer": "SiLU", "gated_mlp": True, "qk_norm": False, "use_act_checkpoint": False,
        "drop_path_rate_encoder": 0.0, "image_size": 224, "patch_size": 16,
        "domains_in": ["caption", "rgb@224", "tok_rgb@224", "t5_caption", "tok_dinov2_global"],
        "domains_out": ["caption", "rgb@224", "tok_rgb@224", "t5_caption", "tok_dinov2_global"],
    }  # fmt: skip
    config = fourm_config.from_dict(data, "here")
    wanted = variant(
        "fm_base_12e_12d_swiglu_nobias", data["domains_in"],
        ["caption", "tok_rgb@224", "tok_dinov2_global"],
    )  # fmt: skip
    assert config == wanted
    assert fourm_config.from_dict({"config": data, "model_type": "4m"}, "here") == wanted
    written = fourm_config.to_dict(config)
    assert written["domains_in"] == data["domains_in"]
    assert fourm_config.from_dict(written, "here") == wanted
    assert "decoder_embeddings.t5_caption.mod_emb" not in fourm_names.tensors(config)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (official(speed=3), r"unknown keys \['speed'\] and lacks \[\]"),
        ({"dim": 8}, r"lacks \['act_layer', 'domains_in', 'domains_out', 'norm_bias'\]"),
        (official(decoder_causal_mask=True), "decoder_causal_mask must be False"),
        (official(act_layer="ReLU"), "act_layer 'ReLU' is none of GELU, SiLU"),
        (official(domains_in=["sound"]), "modality 'sound' is none of scan"),
        (official(domains_in="report"), "domains_in is 'report'; expected a list of names"),
        (official(dim="wide"), "dim is 'wide'; expected a whole number"),
        (official(mlp_ratio="4"), "mlp_ratio is '4'; expected a number"),
        (official(qk_norm="no"), "qk_norm is 'no'; expected true or false"),
        (official(num_heads=2.5), "num_heads is 2.5; expected a whole number"),
    ],
)
def test_configs_that_are_refused(data, message):
    with pytest.raises(UserError, match=f"here: .*{message}|{message}"):
        fourm_config.from_dict(data, "here", TABLE)
