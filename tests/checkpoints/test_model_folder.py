import dataclasses
import hashlib
import json

import numpy as np
import pytest
from flax import nnx

from medjax.checkpoints import files, model_folder, tensors
from medjax.checkpoints.adapters import Base, build_adapted
from medjax.errors import UserError
from medjax.models import lora, params
from medjax.models.config import GemmaConfig, PaliGemmaConfig, SigLIPConfig
from medjax.models.lora import LoRAConfig

CONFIG = PaliGemmaConfig(
    image_size=28,
    img=SigLIPConfig(width=8, depth=3, mlp_dim=10, num_heads=2),
    llm=GemmaConfig(
        width=12, depth=2, mlp_dim=20, num_heads=4, num_kv_heads=2, head_dim=6, vocab_size=30
    ),
)
LORA = LoRAConfig(rank=3, alpha=6, dropout=0.1, targets=("q_proj", "up_proj"))


@pytest.fixture(scope="module")
def adapted():
    """{name: array} of a model with random adapters."""
    rng = np.random.default_rng(0)
    named = {n: rng.standard_normal(s).astype(np.float32) for n, s in tensors.specs(CONFIG).items()}
    model = tensors.build(tensors.in_memory(CONFIG, named))
    lora.apply(model, LORA, rngs=nnx.Rngs(0))
    for _, layer in lora.adapters(model):
        shape = layer.lora_b.get_value().shape
        layer.lora_b.set_value(rng.standard_normal(shape).astype(np.float32))
    return params.flatten(model)


def low_rank(named):
    return {name: array for name, array in named.items() if "/lora_" in name}


def test_model_with_adapter_and_tokenizer(adapted, tmp_path):
    (tmp_path / "tok").write_bytes(b"pieces")
    base = Base("base.npz", "ab" * 32)
    model_folder.save_model(
        tmp_path / "m",
        CONFIG,
        adapted,
        tokenizer_path=tmp_path / "tok",
        lora_config=LORA,
        base=base,
    )
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [
        "lora.json", "lora.safetensors", "model.json", "params.safetensors", "tokenizer.model"
    ]  # fmt: skip
    checkpoint = model_folder.open_model(tmp_path / "m")
    adapter = model_folder.open_adapter(tmp_path / "m")
    assert (checkpoint.config, adapter.config, adapter.base) == (CONFIG, LORA, base)
    assert checkpoint.tokenizer.read_bytes() == b"pieces"
    for name, array in params.flatten(build_adapted(checkpoint, adapter)).items():
        np.testing.assert_array_equal(array, adapted[name])


def test_adapter_alone_names_its_base(adapted, tmp_path):
    with pytest.raises(UserError, match="needs the base"):
        model_folder.save_model(tmp_path / "m", CONFIG, low_rank(adapted), lora_config=LORA)
    model_folder.save_model(
        tmp_path / "m", CONFIG, low_rank(adapted), lora_config=LORA, base=Base("hf")
    )
    assert not model_folder.has_params(tmp_path / "m")
    assert model_folder.open_adapter(tmp_path / "m").base == Base("hf", None)
    with pytest.raises(UserError, match="adapter alone"):
        model_folder.open_model(tmp_path / "m")


def test_what_is_not_whole_is_not_saved(adapted, tmp_path):
    with pytest.raises(UserError, match="with their config"):
        model_folder.save_model(tmp_path / "m", CONFIG, adapted)
    plain = {params.base_name(n): a for n, a in adapted.items() if "/lora_" not in n}
    with pytest.raises(UserError, match="with their config"):
        model_folder.save_model(tmp_path / "m", CONFIG, plain, lora_config=LORA)
    lost = dict(adapted)
    del lost["language_model/layers/mlp/up_proj/lora_b"]
    with pytest.raises(UserError, match="1 missing"):
        model_folder.save_model(tmp_path / "m", CONFIG, lost, lora_config=LORA)
    del plain["multi_modal_projector/bias"]
    with pytest.raises(UserError, match="1 missing"):
        model_folder.save_model(tmp_path / "m", CONFIG, plain)
    assert list(tmp_path.iterdir()) == []


def test_damaged_folders_are_named(adapted, tmp_path):
    model_folder.save_model(tmp_path / "m", CONFIG, adapted, lora_config=LORA)
    weights = tmp_path / "m" / "params.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-4])
    with pytest.raises(UserError, match=r"params\.safetensors: .* is cut short"):
        model_folder.open_model(tmp_path / "m")
    weights.write_bytes(data[:6])
    with pytest.raises(UserError, match="no safetensors file"):
        model_folder.open_model(tmp_path / "m")
    (tmp_path / "m" / "lora.json").write_text(json.dumps({"rank": 3}))
    with pytest.raises(UserError, match=r"lora\.json cannot be read"):
        model_folder.open_adapter(tmp_path / "m")
    (tmp_path / "m" / "model.json").write_text("{")
    with pytest.raises(UserError, match=r"model\.json cannot be read"):
        model_folder.open_model(tmp_path / "m")


def test_only_an_earlier_result_is_overwritten(adapted, tmp_path):
    plain = {params.base_name(n): a for n, a in adapted.items() if "/lora_" not in n}
    model_folder.save_model(tmp_path / "m", CONFIG, adapted, lora_config=LORA)
    with pytest.raises(UserError, match="not empty"):
        model_folder.save_model(tmp_path / "m", CONFIG, plain)
    model_folder.save_model(tmp_path / "m", CONFIG, plain, overwrite=True)
    assert not model_folder.has_adapter(tmp_path / "m")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="no earlier result"):
        model_folder.save_model(tmp_path / "home", CONFIG, plain, overwrite=True)
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    model_folder.save_model(tmp_path / "empty", CONFIG, plain)
    assert {path.name for path in tmp_path.iterdir()} == {"m", "home", "empty"}


def test_nothing_is_left_of_a_failed_write(adapted, tmp_path):
    plain = {params.base_name(n): a for n, a in adapted.items() if "/lora_" not in n}
    checkpoint = tensors.in_memory(CONFIG, plain)

    def fail():
        raise OSError("disk on fire")

    name = "multi_modal_projector/bias"
    broken = dataclasses.replace(checkpoint.arrays[name], read=fail)
    bad = dataclasses.replace(checkpoint, arrays={**checkpoint.arrays, name: broken})
    model_folder.save_model(tmp_path / "m", CONFIG, plain)
    before = files.content_hash(tmp_path / "m")
    for folder in ("m", "new"):
        with pytest.raises(OSError, match="disk on fire"):
            model_folder.write_folder(tmp_path / folder, CONFIG, bad, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert files.content_hash(tmp_path / "m") == before


def test_content_hash(tmp_path):
    (tmp_path / "d" / "sub").mkdir(parents=True)
    (tmp_path / "d" / "a").write_bytes(b"one")
    (tmp_path / "d" / "sub" / "b").write_bytes(b"two")
    assert files.content_hash(tmp_path / "d" / "a") == hashlib.sha256(b"one").hexdigest()
    before = model_folder.content_hash(tmp_path / "d")
    (tmp_path / "d" / ".hidden").write_bytes(b"x")
    (tmp_path / "d" / "a").touch()
    assert files.content_hash(tmp_path / "d") == before
    (tmp_path / "d" / "a").rename(tmp_path / "d" / "c")
    assert files.content_hash(tmp_path / "d") != before
    (tmp_path / "d" / "c").rename(tmp_path / "d" / "a")
    assert files.content_hash(tmp_path / "d") == before
    (tmp_path / "d" / "sub" / "b").write_bytes(b"twO")
    assert files.content_hash(tmp_path / "d") != before
    with pytest.raises(UserError, match="does not exist"):
        files.content_hash(tmp_path / "none")
