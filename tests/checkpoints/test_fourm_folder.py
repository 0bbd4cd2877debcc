"""Model folders of 4M: what survives, adapters beside their base or alone, what is refused."""

import dataclasses
import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from medjax.checkpoints import adapters, convert, files, model_folder, probe, tensors
from medjax.checkpoints.safetensors_files import open_file, write_file
from medjax.config import defaults
from medjax.data.wordpiece import train_wordpiece
from medjax.errors import UserError
from medjax.models import families, lora, params
from medjax.models.build import build
from medjax.pipelines.paligemma import stage
from medjax.scaling import sharding


@pytest.fixture(scope="module")
def config(fourm_config):
    return fourm_config(tie_embeddings=False, share_modality_embeddings=False)


@pytest.fixture(scope="module")
def named(config, fourm_params):
    return fourm_params(config)


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory) -> pathlib.Path:
    """A tokenizer of fewer ids than the model has."""
    path = tmp_path_factory.mktemp("text") / "any.json"
    train_wordpiece(["axial slice"] * 3, path, 120, num_sentinels=5, num_bins=10)
    return path


def opened(folder: pathlib.Path) -> convert.Source:
    """A folder with its adapter and their base, as a later stage and generation open it."""
    return convert.open_source(convert.Request("medjax", "medjax", folder, folder))


def test_modalities_heads_weights_and_text_survive(config, named, wordpiece, tmp_path):
    model_folder.save_model(tmp_path / "m", config, named, tokenizer_path=wordpiece)
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [
        "model.json", "params.safetensors", "wordpiece.json"
    ]  # fmt: skip
    found = model_folder.open_model(tmp_path / "m")
    assert found.config == config
    assert found.tokenizer.read_bytes() == wordpiece.read_bytes()
    assert set(found.arrays) == set(named)
    for name, array in found:
        np.testing.assert_array_equal(array, named[name])


def test_a_model_of_modules_is_saved_and_built_again(config, named, tmp_path):
    """As a stage does it: built on a mesh with adapters, trained, saved, opened, built."""
    mesh = sharding.make_mesh({})
    options = dict(rank=2, alpha=6, targets=("v_proj",), towers=("decoder",))
    model = build(
        config, mesh=mesh, weights=named.items(), lora_config=lora.LoRAConfig(**options),
        dtype=jnp.bfloat16, param_dtype=jnp.bfloat16,
    )  # fmt: skip
    kinds = {name: array.dtype for name, array in params.flatten(model).items()}
    assert {n for n, kind in kinds.items() if kind == jnp.float32} == {
        f"decoder/layers/{attention}/v_proj/lora_{half}"
        for attention in ("self_attn", "cross_attn")
        for half in "ab"
    }
    model_folder.save_model(
        tmp_path / "m", model.config, params.flatten(model), lora_config=lora.LoRAConfig(**options)
    )
    source = opened(tmp_path / "m")
    again = adapters.build_adapted(
        source.checkpoint, source.adapter, mesh=mesh, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16
    )
    assert again.config == config
    for name, array in params.flatten(again).items():
        np.testing.assert_array_equal(array, params.flatten(model)[name], err_msg=name)


def test_adapters_alone_beside_their_base(config, named, fourm_adapter, tmp_path):
    base = tmp_path / "base"
    model_folder.save_model(base, config, named)
    adapter = fourm_adapter(config, adapters.Base(str(base), files.content_hash(base)))
    checkpoint = model_folder.open_model(base)
    learned = {name: array.read() for name, array in adapter.arrays.items()}
    # This stage drew its text from elsewhere, which its model.json remembers.
    own = [dataclasses.replace(m, source=f"{m.name}_here") for m in config.modalities]
    own_config = dataclasses.replace(config, modalities=tuple(own))
    model_folder.save_model(
        tmp_path / "lora", own_config, learned, lora_config=adapter.config, base=adapter.base
    )
    assert not model_folder.has_params(tmp_path / "lora")
    source = opened(tmp_path / "lora")
    assert source.checkpoint.config == own_config
    assert source.adapter.config == adapter.config

    question = probe.any_probe(config)
    wanted = probe.logits(checkpoint, question, adapter)
    np.testing.assert_array_equal(probe.logits(source.checkpoint, question, source.adapter), wanted)
    assert probe.difference(probe.logits(checkpoint, question), wanted) > 0.1
    whole = adapters.merged(source.checkpoint, source.adapter)
    # Sums of float32 in another order.
    assert probe.difference(probe.logits(whole, question), wanted) < 2e-5 * np.abs(wanted).max()

    weights = base / model_folder.PARAMS
    other = {n: tensors.lazy(a.read() + 1) for n, a in open_file(weights).items()}
    write_file(tmp_path / "swapped", other)
    (tmp_path / "swapped").replace(weights)
    with pytest.raises(UserError, match=r"lora\.safetensors was trained on .*base \(sha256"):
        opened(tmp_path / "lora")
    weights.unlink()
    (base / model_folder.MODEL).unlink()
    base.rmdir()
    with pytest.raises(UserError, match=r"adapter alone; its base .*base is not there"):
        opened(tmp_path / "lora")


def test_what_is_merged_is_pefts(config, named, fourm_adapter):
    """W + (alpha / rank) A B; alpha is not the rank. Whatever has no adapter stays."""
    adapter = fourm_adapter(config)
    checkpoint = tensors.in_memory(config, named)
    merged = dict(adapters.merged(checkpoint, adapter))
    paths = {name.rsplit("/", 1)[0] for name in adapter.arrays}
    assert {path.rsplit("/", 1)[1] for path in paths} == set(adapter.config.targets)
    for name, array in merged.items():
        wanted = named[name].astype(np.float64)
        if (path := name.removesuffix("/kernel")) in paths:
            a, b = (adapter.arrays[f"{path}/lora_{half}"].read() for half in "ab")
            wanted = wanted + (12 / 3) * (a.astype(np.float64) @ b.astype(np.float64))
        np.testing.assert_allclose(array, wanted, rtol=1e-5, atol=1e-5, err_msg=name)
    model = adapters.build_adapted(checkpoint, adapter)
    lora.fold(model)
    for name, array in params.flatten(nnx.state(model, nnx.Param)).items():
        np.testing.assert_allclose(array, merged[name], rtol=1e-5, atol=1e-5, err_msg=name)


def saved(config, named, folder) -> pathlib.Path:
    model_folder.save_model(folder, config, named)
    return folder


def rewritten(folder: pathlib.Path, change) -> None:
    """model.json, changed in place."""
    path = folder / model_folder.MODEL
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(speed=3), r"has unknown keys \['speed'\] and lacks \[\]"),
        (lambda d: d.pop("width"), r"has unknown keys \[\] and lacks \['width'\]"),
        (lambda d: d.update(family="bert"), "family 'bert' is none of paligemma, fourm"),
        (lambda d: d.pop("family"), "unknown"),
        (lambda d: d.update(width="wide"), "width is 'wide'; expected a whole number"),
        (lambda d: d.update(gated=1), "gated is 1; expected true or false"),
        (lambda d: d.update(num_heads=5), "model: width 16 is no multiple of num_heads 5"),
        (lambda d: d.update(modalities=3), "modalities is 3; expected a list"),
        (lambda d: d["modalities"][2].pop("kind"), r"modalities\[2\] has .* lacks \['kind'\]"),
        (lambda d: d["modalities"][0].update(channels=0), r"modalities\[0\]: .*channels is 0"),
        (lambda d: d["modalities"][2].update(vocab_size=301),
         r"embed_tokens/report has shape \(300, 16\), .* asks for \(301, 16\); correct vocab_size "
         "of modality 'report'"),
        (lambda d: d["modalities"][4].update(vocab_size=8),
         r"(embed_tokens|lm_head)/tok_global has shape \(7, 16\)"),
        (lambda d: d.update(encoder_depth=3), r"encoder/layers/.* has shape \(2, .* for \(3, "),
        (lambda d: d.update(targets=["report"]), r"modalities tok_global are neither"),
        (lambda d: d.update(qk_norm=False), r"0 missing .*, 12 unexpected \['decoder/layers"),
    ],
)  # fmt: skip
def test_a_model_json_that_is_not_its_folders(config, named, tmp_path, change, message):
    folder = saved(config, named, tmp_path / "m")
    rewritten(folder, change)
    with pytest.raises(UserError, match=rf"^{tmp_path}/m/(model\.json|params\.saf\w+).*{message}"):
        model_folder.open_model(folder)


def test_files_that_are_damaged_or_missing(config, named, tmp_path):
    folder = saved(config, named, tmp_path / "m")
    weights, sizes = folder / model_folder.PARAMS, folder / model_folder.MODEL
    arrays = open_file(weights)
    name = "decoder/mask_token"
    less = {n: tensors.lazy(a.read()) for n, a in arrays.items() if n != name}
    for changed, message in [
        (less, rf"1 missing \['{name}'\], 0 unexpected"),
        (less | {name: tensors.lazy(named[name]), "x": tensors.lazy(named[name])},
         r"0 missing \[\], 1 unexpected \['x'\]"),
        (less | {name: tensors.lazy(named[name][:5])}, rf"{name} has shape \(5,\), .* \(16,\)"),
    ]:  # fmt: skip
        write_file(tmp_path / "new", changed)
        (tmp_path / "new").replace(weights)
        with pytest.raises(UserError, match=rf"params\.safetensors: .*{message}"):
            model_folder.open_model(folder)
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(UserError, match=r"params\.safetensors: .* is cut short"):
        model_folder.open_model(folder)
    weights.unlink()
    with pytest.raises(UserError, match=r"m has no params\.safetensors"):
        model_folder.open_model(folder)
    sizes.write_text("{")
    with pytest.raises(UserError, match=r"model\.json cannot be read"):
        model_folder.open_model(folder)
    sizes.unlink()
    with pytest.raises(UserError, match=r"model\.json cannot be read: .*No such file"):
        model_folder.open_model(folder)


def test_a_tokenizer_must_be_the_models(config, named, wordpiece, tmp_path):
    small = [
        dataclasses.replace(m, vocab_size=50) if m.name == "report" else m
        for m in config.modalities
    ]
    less = dataclasses.replace(config, modalities=tuple(small))
    text = ("embed_tokens/report", "lm_head/report")
    fewer = {n: array[:50] if n.endswith(text) else array for n, array in named.items()}
    with pytest.raises(UserError, match=r"any\.json has \d+ ids, but modality 'report' .* only 50"):
        model_folder.save_model(tmp_path / "m", less, fewer, tokenizer_path=wordpiece)
    assert not (tmp_path / "m").exists()
    model_folder.save_model(tmp_path / "m", less, fewer)
    (tmp_path / "m" / "wordpiece.json").write_bytes(wordpiece.read_bytes())
    with pytest.raises(UserError, match=r"wordpiece\.json has \d+ ids, but modality 'report' of"):
        model_folder.open_model(tmp_path / "m")
    (tmp_path / "m" / "wordpiece.json").write_text("{}")
    with pytest.raises(UserError, match=r"wordpiece\.json is no file of the tokenizers library"):
        model_folder.open_model(tmp_path / "m")


def test_adapters_of_another_model(config, fourm_adapter, tmp_path):
    adapter = fourm_adapter(config, adapters.Base("base"))
    for changes, message in [
        (dict(num_kv_heads=4), r"k_proj/lora_b has shape \(3, 3, 8\), .* \(3, 3, 16\)"),
        (dict(gated=False), "no layer of encoder, decoder is called gate_proj"),
        (dict(encoder_depth=1), r"encoder/layers/.* has shape \(2, "),
    ]:
        other = dataclasses.replace(config, **changes)
        with pytest.raises(UserError, match=message):
            model_folder.write_folder(tmp_path / "m", other, None, adapter)
    assert not list(tmp_path.iterdir())


def test_a_family_where_another_is_asked_for(config, named, tmp_path):
    path = tmp_path / "model.json"
    path.write_text(json.dumps(families.to_dict(config)))
    assert families.load(path) == config
    model_folder.save_model(tmp_path / "m", config, named)
    run = defaults()
    run.init = str(tmp_path / "m")
    with pytest.raises(UserError, match=r"init .*/m is a 4M model, where a PaliGemma model is ask"):
        stage.open_init(run)
