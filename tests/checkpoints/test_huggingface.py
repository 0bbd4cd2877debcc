import dataclasses
import json
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from medjax.checkpoints import hf_config, hf_names, huggingface, safetensors_files, tensors
from medjax.data.tokenizer import train_tokenizer
from medjax.errors import UserError
from medjax.models.config import GemmaConfig, PaliGemmaConfig, SigLIPConfig
from medjax.models.variants import VARIANTS

CONFIG = PaliGemmaConfig(
    image_size=28,
    img=SigLIPConfig(width=8, depth=3, mlp_dim=10, num_heads=2),
    llm=GemmaConfig(
        width=12, depth=2, mlp_dim=20, num_heads=4, num_kv_heads=2, head_dim=6, vocab_size=30,
        post_norms=True,
    ),
)  # fmt: skip
IDS = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}


def random_checkpoint(config=CONFIG, dtype=np.float32, tokenizer=None) -> tensors.Checkpoint:
    rng = np.random.default_rng(0)
    named = {n: rng.standard_normal(s).astype(dtype) for n, s in tensors.specs(config).items()}
    return tensors.in_memory(config, named, tokenizer)


def assert_equal(a: tensors.Checkpoint, b: tensors.Checkpoint) -> None:
    assert a.config == b.config
    for name, array in a:
        assert b.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(array, b.arrays[name].read())


@pytest.mark.parametrize("post_norms", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shard_bytes", [10**9, 4000])
def test_there_and_back(post_norms, dtype, shard_bytes, tmp_path):
    llm = dataclasses.replace(CONFIG.llm, post_norms=post_norms)
    checkpoint = random_checkpoint(dataclasses.replace(CONFIG, llm=llm), dtype)
    huggingface.write_folder(checkpoint, tmp_path / "hf", shard_bytes=shard_bytes)
    assert_equal(checkpoint, huggingface.open_folder(tmp_path / "hf"))
    files = sorted((tmp_path / "hf").glob("*.safetensors"))
    assert (len(files) > 1) == (shard_bytes == 4000)
    if len(files) > 1:
        assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
        index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
        total = sum(array.size * array.dtype.itemsize for array in checkpoint.arrays.values())
        assert index["metadata"]["total_size"] == total


def saved_tensors(folder) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(folder / "model.safetensors")


def test_layout_as_the_safetensors_library_reads_it(tmp_path):
    checkpoint = random_checkpoint()
    huggingface.write_folder(checkpoint, tmp_path / "hf")
    theirs = saved_tensors(tmp_path / "hf")
    ours = dict(iter(checkpoint))
    down = theirs["language_model.model.layers.1.mlp.down_proj.weight"]
    np.testing.assert_array_equal(down, ours["language_model/layers/mlp/down_proj/kernel"][1].T)
    conv = theirs["vision_tower.vision_model.embeddings.patch_embedding.weight"]
    assert conv.shape == (8, 3, 14, 14)
    patch = ours["vision_tower/patch_embedding/kernel"]
    assert conv[5, 2, 3, 4] == patch[(3 * 14 + 4) * 3 + 2, 5]
    norm = theirs["language_model.model.layers.0.pre_feedforward_layernorm.weight"]
    np.testing.assert_array_equal(norm, ours["language_model/layers/pre_ffw_norm/scale"][0])


def respelt(tmp_path, spell) -> huggingface.Checkpoint:
    huggingface.write_folder(random_checkpoint(), tmp_path / "hf")
    renamed = {spell(name): array for name, array in saved_tensors(tmp_path / "hf").items()}
    safetensors.numpy.save_file(renamed, tmp_path / "hf" / "model.safetensors")
    return huggingface.open_folder(tmp_path / "hf")


def present(name: str) -> str:
    return "model." + hf_names.canonical(name)


def on_disk(name: str) -> str:
    return name.replace("vision_tower.vision_model.", "vision_tower.")


@pytest.mark.parametrize("spell", [present, on_disk])
def test_other_spellings_are_read(spell, tmp_path):
    assert_equal(random_checkpoint(), respelt(tmp_path, spell))


@pytest.mark.parametrize("name", hf_names.LM_HEADS)
def test_tied_output_layer_is_accepted_and_untied_refused(name, tmp_path):
    huggingface.write_folder(random_checkpoint(), tmp_path / "hf")
    arrays = saved_tensors(tmp_path / "hf")
    table = arrays["language_model.model.embed_tokens.weight"]
    path = tmp_path / "hf" / "model.safetensors"
    safetensors.numpy.save_file({**arrays, name: table.copy()}, path)
    assert_equal(random_checkpoint(), huggingface.open_folder(tmp_path / "hf"))
    other = table.copy()
    other[-1, -1] += 1
    safetensors.numpy.save_file({**arrays, name: other}, path)
    with pytest.raises(UserError, match="differs from the embedding"):
        huggingface.open_folder(tmp_path / "hf")


def test_missing_and_unexpected_tensors_are_named(tmp_path):
    huggingface.write_folder(random_checkpoint(), tmp_path / "hf")
    arrays = saved_tensors(tmp_path / "hf")
    arrays["vision_tower.vision_model.head.probe"] = arrays.pop("multi_modal_projector.linear.bias")
    safetensors.numpy.save_file(arrays, tmp_path / "hf" / "model.safetensors")
    with pytest.raises(UserError, match=r"missing.*linear\.bias.*unexpected.*head\.probe"):
        huggingface.open_folder(tmp_path / "hf")


def test_damaged_folders(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        huggingface.open_folder(tmp_path / "none")
    huggingface.write_folder(random_checkpoint(), tmp_path / "hf", shard_bytes=4000)
    shard = next((tmp_path / "hf").glob("model-00002-*"))
    data = shard.read_bytes()
    shard.write_bytes(data[:-10])
    with pytest.raises(UserError, match="cut short"):
        huggingface.open_folder(tmp_path / "hf")
    shard.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        huggingface.open_folder(tmp_path / "hf")
    shard.write_bytes(data)
    index = tmp_path / "hf" / "model.safetensors.index.json"
    places = json.loads(index.read_text())
    places["weight_map"].pop(next(iter(places["weight_map"])))
    index.write_text(json.dumps(places))
    with pytest.raises(UserError, match="disagree about 1 tensors"):
        huggingface.open_folder(tmp_path / "hf")
    index.unlink()
    with pytest.raises(UserError, match="holds neither"):
        huggingface.open_folder(tmp_path / "hf")


def test_wrong_vocabulary_in_the_config(tmp_path):
    huggingface.write_folder(random_checkpoint(), tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    config["text_config"]["vocab_size"] = 31
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="embedding has 30 rows"):
        huggingface.open_folder(tmp_path / "hf")


@pytest.mark.parametrize("name", VARIANTS)
def test_official_configs_survive(name, tmp_path):
    data = hf_config.to_dict(
        VARIANTS[name], dtype="bfloat16", image_token_id=257_152, special_ids=IDS
    )
    (tmp_path / "config.json").write_text(json.dumps(data))
    assert hf_config.read(tmp_path / "config.json") == VARIANTS[name]


# What the official folders say, as far as it matters: defaults are left out there.
OFFICIAL = {
    "paligemma-3b-224": {
        "model_type": "paligemma", "image_token_index": 257_152, "projection_dim": 2048,
        "text_config": {
            "model_type": "gemma", "hidden_size": 2048, "intermediate_size": 16_384,
            "num_attention_heads": 8, "num_hidden_layers": 18, "num_key_value_heads": 1,
            "vocab_size": 257_216,
        },
        "vision_config": {
            "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304,
            "num_attention_heads": 16, "num_hidden_layers": 27, "patch_size": 14,
            "vision_use_head": False,
        },
    },
    "paligemma2-3b-448": {
        "model_type": "paligemma", "image_token_index": 257_152, "projection_dim": 2304,
        "text_config": {
            "model_type": "gemma2", "hidden_size": 2304, "intermediate_size": 9216,
            "num_attention_heads": 8, "num_hidden_layers": 26, "num_key_value_heads": 4,
            "vocab_size": 257_216, "query_pre_attn_scalar": 256, "sliding_window": 4096,
            "hidden_activation": "gelu_pytorch_tanh",
        },
        "vision_config": {
            "hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16,
            "num_hidden_layers": 27, "patch_size": 14, "image_size": 448,
        },
    },
}  # fmt: skip


@pytest.mark.parametrize("name", OFFICIAL)
def test_configs_with_defaults_left_out(name, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(OFFICIAL[name]))
    assert hf_config.read(tmp_path / "config.json") == VARIANTS[name]


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("text_config", "rms_norm_eps", 1e-5),
        ("text_config", "attention_bias", True),
        ("text_config", "rope_theta", 1e6),
        ("text_config", "rope_parameters", {"rope_type": "linear", "rope_theta": 1e4}),
        ("text_config", "hidden_activation", "silu"),
        ("text_config", "sliding_window", 100),
        ("text_config", "model_type", "gemma3_text"),
        ("vision_config", "hidden_act", "gelu"),
        ("vision_config", "layer_norm_eps", 1e-5),
        ("vision_config", "num_channels", 1),
        (None, "model_type", "llava"),
        (None, "tie_word_embeddings", False),
    ],
)
def test_what_medjax_does_not_compute_is_refused(part, key, value, tmp_path):
    data = json.loads(json.dumps(OFFICIAL["paligemma2-3b-448"]))
    (data if part is None else data[part])[key] = value
    (tmp_path / "config.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match=key if key != "rope_parameters" else "rope_type"):
        hf_config.read(tmp_path / "config.json")


@pytest.mark.parametrize(
    "llm",
    [
        dict(post_norms=False, attn_logits_softcap=5.0),
        dict(post_norms=False, query_scale_dim=9),
        dict(num_heads=8, width=12),
    ],
)
def test_models_that_transformers_lacks_are_refused(llm, tmp_path):
    config = dataclasses.replace(CONFIG, llm=dataclasses.replace(CONFIG.llm, **llm))
    with pytest.raises(UserError, match="cannot be written"):
        huggingface.write_folder(random_checkpoint(config), tmp_path / "hf")
    assert list(tmp_path.iterdir()) == []


def test_image_token_is_the_first_id_after_the_tokenizers(tmp_path):
    tokenizer = train_tokenizer(["detect brain"], tmp_path / "tokenizer.model", vocab_size=300)

    def exported(rows: int) -> int:
        llm = dataclasses.replace(CONFIG.llm, vocab_size=rows)
        checkpoint = random_checkpoint(
            dataclasses.replace(CONFIG, llm=llm), tokenizer=tmp_path / "tokenizer.model"
        )
        folder = tmp_path / f"hf{rows}"
        huggingface.write_folder(checkpoint, folder)
        assert (folder / "tokenizer.model").read_bytes() == checkpoint.tokenizer.read_bytes()
        config = json.loads((folder / "config.json").read_text())
        assert config["text_config"]["vocab_size"] == rows  # no row is invented
        return config["image_token_index"]

    assert exported(tokenizer.vocab_size) == tokenizer.vocab_size
    assert exported(tokenizer.vocab_size + 8) == tokenizer.vocab_size
    with pytest.raises(UserError, match="another model's tokenizer"):
        exported(tokenizer.vocab_size - 1)


def test_gemmas_vocabulary_gets_the_official_padding(tmp_path):
    llm = dataclasses.replace(CONFIG.llm, width=4, vocab_size=257_152)
    checkpoint = random_checkpoint(dataclasses.replace(CONFIG, llm=llm))
    huggingface.write_folder(checkpoint, tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["image_token_index"] == 257_152
    assert config["text_config"]["vocab_size"] == 257_216


def test_writing_holds_one_parameter_at_a_time(tmp_path):
    llm = dataclasses.replace(CONFIG.llm, depth=12, width=64, mlp_dim=512)
    config = dataclasses.replace(CONFIG, llm=llm)
    shapes = tensors.specs(config)
    largest = max(int(np.prod(s)) for s in shapes.values()) * 4
    total = sum(int(np.prod(s)) for s in shapes.values()) * 4
    assert total > 3 * largest
    huggingface.write_folder(random_checkpoint(config), tmp_path / "a")
    tracemalloc.start()
    checkpoint = huggingface.open_folder(tmp_path / "a")
    huggingface.write_folder(checkpoint, tmp_path / "b")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * largest + 1e6
    assert_equal(checkpoint, huggingface.open_folder(tmp_path / "b"))


def test_safetensors_writer_is_strict(tmp_path):
    spec = {"a": ((2,), np.dtype(np.float32)), "b": ((0, 3), np.dtype(np.float32))}
    with safetensors_files.Writer(tmp_path / "f", spec) as writer:
        with pytest.raises(ValueError, match="announced"):
            writer.write("a", np.zeros(2, np.float16))
        writer.write("b", np.zeros((0, 3), np.float32))
        writer.write("a", np.ones(2, np.float32))
        with pytest.raises(ValueError, match="announced"):
            writer.write("a", np.ones(2, np.float32))
    found = safetensors.numpy.load_file(tmp_path / "f")
    assert found["b"].shape == (0, 3)
    np.testing.assert_array_equal(found["a"], [1, 1])
    assert safetensors_files.open_file(tmp_path / "f")["b"].read().shape == (0, 3)
    writer = safetensors_files.Writer(tmp_path / "g", spec)
    with pytest.raises(ValueError, match="never came"):
        writer.__exit__(None, None, None)
