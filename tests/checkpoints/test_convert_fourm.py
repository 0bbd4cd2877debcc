"""4M's models between apple/ml-4m's format and medjax."""

import dataclasses
import json
import pathlib
import resource
import sys

import convert as command
import jax
import numpy as np
import pytest
from flax import nnx

from medjax import cli
from medjax.checkpoints import (
    adapters,
    convert,
    files,
    fourm,
    fourm_config,
    model_folder,
    probe,
    tensors,
)
from medjax.checkpoints.convert import Request
from medjax.data.wordpiece import train_wordpiece
from medjax.errors import UserError
from medjax.models import params
from medjax.models.fourm import FourMConfig, lookup

NPZ = pathlib.Path(__file__).parents[1] / "reference" / "paligemma1" / "params.npz"
OFFICIAL = FourMConfig(
    width=16, encoder_depth=1, decoder_depth=2, num_heads=2,
    modalities=tuple(lookup(n) for n in ("rgb@32", "color_palette", "tok_semseg@32")),
    inputs=("rgb@32", "color_palette"), targets=("tok_semseg@32", "color_palette"),
)  # fmt: skip


@pytest.fixture(scope="module")
def own(fourm_config) -> FourMConfig:
    """A model that the original can hold, though not its modalities."""
    return fourm_config(num_kv_heads=None)


@pytest.fixture(scope="module")
def folder(own, fourm_params, tmp_path_factory) -> pathlib.Path:
    """A folder of medjax with a tokenizer. To be read only."""
    path = tmp_path_factory.mktemp("fourm")
    train_wordpiece(["axial slice"] * 3, path / "text", 120, num_sentinels=5, num_bins=10)
    named = fourm_params(own)
    model_folder.save_model(path / "m", own, named, tokenizer_path=path / "text")
    return path / "m"


def run(source, target, path, output, **options) -> dict:
    return convert.convert(Request(source, target, path, output, **options))


def test_there_and_back_with_modalities_of_ones_own(own, folder, tmp_path, capsys):
    report = run("medjax", "4m", folder, tmp_path / "official")
    assert report["modalities"] == list(own.names)
    assert report["parameters"] == sum(a.size for _, a in model_folder.open_model(folder))
    said = capsys.readouterr().err
    assert "warning: t1, tissue, report, prior, tok_global: not so in apple/ml-4m's table" in said
    assert sorted(path.name for path in (tmp_path / "official").iterdir()) == [
        "config.json", "model.safetensors", "wordpiece.json"
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"config\.json: modality 't1' is none of .*--model-config"):
        run("4m", "medjax", tmp_path / "official", tmp_path / "no")
    named = dict(model_config=str(folder / "model.json"))
    run("4m", "medjax", tmp_path / "official", tmp_path / "back", **named)
    assert files.content_hash(tmp_path / "back") == files.content_hash(folder)


def test_official_modalities_need_no_word(fourm_params, tmp_path, capsys):
    model_folder.save_model(tmp_path / "m", OFFICIAL, fourm_params(OFFICIAL))
    run("medjax", "4m", tmp_path / "m", tmp_path / "official")
    run("4m", "4m", tmp_path / "official", tmp_path / "again", dtype="bfloat16")
    run("4m", "medjax", tmp_path / "again", tmp_path / "back")
    assert "warning" not in capsys.readouterr().err
    found = model_folder.open_model(tmp_path / "back")
    assert found.config == OFFICIAL
    half = model_folder.open_model(tmp_path / "m").astype(tensors.DTYPES["bfloat16"])
    assert tensors.differing(found, half) == []


def test_which_modalities_are_not_official():
    image, text, tokens = OFFICIAL.modalities
    smaller = dataclasses.replace(text, vocab_size=100)
    changed = dataclasses.replace(OFFICIAL, modalities=(image, smaller, tokens))
    assert fourm_config.unofficial(OFFICIAL) == []
    assert fourm_config.unofficial(changed) == ["color_palette"]


def test_adapters_beside_an_official_base(own, folder, fourm_adapter, tmp_path):
    base = tmp_path / "base"
    run("medjax", "4m", folder, base)
    adapter = fourm_adapter(own, adapters.Base(str(base), files.content_hash(base)))
    model_folder.write_folder(tmp_path / "lora", own, None, adapter)
    checkpoint = model_folder.open_model(folder)
    for target in ("4m", "medjax"):
        assert run("medjax", target, tmp_path / "lora", tmp_path / target)["adapter"] == "merged"
        written = convert.open_any_model(tmp_path / target, own)
        assert tensors.differing(written, adapters.merged(checkpoint, adapter)) == []
        assert written.tokenizer.read_bytes() == checkpoint.tokenizer.read_bytes()
    named = dict(model_config=str(folder / "model.json"), adapter=tmp_path / "lora")
    report = run("4m", "medjax", base, tmp_path / "kept", **named, keep_adapter=True)
    assert report["adapter"] == "kept"
    assert tensors.differing(model_folder.open_model(tmp_path / "kept"), checkpoint) == []
    kept = model_folder.open_adapter(tmp_path / "kept")
    assert (kept.config, kept.base) == (adapter.config, adapter.base)
    (base / "config.json").write_text((base / "config.json").read_text() + " ")
    with pytest.raises(UserError, match="was trained on"):
        run("medjax", "4m", tmp_path / "lora", tmp_path / "no")


def test_what_a_format_cannot_say_is_refused(
    own, folder, fourm_config, fourm_params, fourm_adapter, tmp_path
):
    grouped = fourm_config()
    model_folder.save_model(tmp_path / "gqa", grouped, fourm_params(grouped))
    adapter = fourm_adapter(own, adapters.Base(str(folder)))
    model_folder.write_folder(tmp_path / "lora", own, None, adapter)
    sizes = NPZ.parent / "config.json"
    paligemma = dict(model_config=str(sizes))
    run("big_vision", "medjax", NPZ, tmp_path / "other", **paligemma)
    for arguments, options, message in [
        (("medjax", "4m", tmp_path / "gqa"), {}, "no grouped-query attention"),
        (("medjax", "huggingface", folder), {}, f"--to huggingface: {folder} is a 4M model, where"),
        (("medjax", "big_vision", folder), {}, f"--to big_vision: {folder} is a 4M model, where"),
        (("medjax", "peft", tmp_path / "lora"), {}, "--to peft: .* is a 4M model, where"),
        (("big_vision", "4m", NPZ), paligemma, "--to 4m: .* is a PaliGemma model, where a 4M"),
        (("big_vision", "medjax", NPZ), {"model_config": str(folder / "model.json")},
         "--model-config .* is a 4M model, where a PaliGemma"),
        (("4m", "medjax", folder), paligemma, "--model-config .* is a PaliGemma model, where a 4M"),
        (("medjax", "medjax", folder), {"model_config": str(tmp_path / "gqa" / "model.json")},
         "is not the model of .*/m, whose num_kv_heads is None, not 2$"),
        (("medjax", "medjax", folder), {"tokenizer": sizes}, "no file of the tokenizers library"),
        (("4m", "medjax", tmp_path / "gqa"), {}, r"config\.json cannot be read"),
        (("medjax", "medjax", tmp_path / "lora"), {"base": tmp_path / "other"},
         "other, the base of .*lora, is a PaliGemma model, where a 4M"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=message):
            run(*arguments, tmp_path / "no", **options)
    assert {path.name for path in tmp_path.iterdir()} == {"gqa", "lora", "other"}


def test_a_config_json_of_another_model(own, folder, tmp_path):
    run("medjax", "4m", folder, tmp_path / "official")
    path = tmp_path / "official" / "config.json"
    data = json.loads(path.read_text())
    for key, value in {"num_heads": 2, "act_layer": "GELU", "domains_in": ["t1"]}.items():
        path.write_text(json.dumps(data | {key: value}))
        with pytest.raises(UserError, match=rf"config\.json: {key} is .*, the model config asks"):
            fourm.open_folder(tmp_path / "official", own)
    # What cannot be predicted is in the original's list of targets, too.
    path.write_text(json.dumps({"config": data | {"domains_out": [*own.targets, "t1"]}}))
    assert fourm.open_folder(tmp_path / "official", own).config == own


@pytest.mark.parametrize("target", ["4m", "medjax"])
def test_nothing_is_left_when_the_disk_is_full(folder, target, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        with pytest.raises(UserError, match="File too large; nothing is left of it"):
            run("medjax", target, folder, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_probe_reaches_every_parameter(own, folder):
    """Else what it compares would not notice a parameter that went astray."""
    question = probe.any_probe(own)
    graphdef, state = nnx.split(tensors.build(model_folder.open_model(folder)))
    vocabularies = sum(own.modality(name).vocab_size for name in own.targets)
    weights = np.random.default_rng(0).standard_normal((1, 12, vocabularies))

    @jax.jit
    @jax.grad
    def gradient(state):
        return (question.ask(nnx.merge(graphdef, state)) * weights).sum()

    gradients = params.flatten(gradient(state))
    assert set(gradients) == set(tensors.specs(own))
    unseen = {name for name, gradient in gradients.items() if np.abs(gradient).max() < 1e-4}
    # What is added to all keys alike cancels in the softmax.
    assert unseen == {name for name in gradients if name.endswith("k_norm/bias")}


@pytest.fixture
def tool(monkeypatch, capsys):
    """Runs tools/convert.py; returns exit code, its JSON and what it said."""

    def call(*arguments) -> tuple[int, dict, str]:
        monkeypatch.setattr(sys, "argv", ["convert.py", *map(str, arguments), "--json"])
        with pytest.raises(SystemExit) as exit_:
            cli.run(command.main)
        out, err = capsys.readouterr()
        return exit_.value.code, json.loads(out or "{}"), err

    return call


def test_the_command_verifies(tool, own, folder, fourm_adapter, tmp_path, monkeypatch):
    adapter = fourm_adapter(own, adapters.Base(str(folder), files.content_hash(folder)))
    model_folder.write_folder(tmp_path / "lora", own, None, adapter)
    flags = ("--from", "medjax", "--to", "4m", "--input", tmp_path / "lora", "--verify")
    code, report, _ = tool(*flags, "--output", tmp_path / "official")
    assert code == 0
    assert report["adapter"] == "merged"
    assert report["arrays_read_back"] == len(tensors.specs(own))
    assert 0 < report["max_logit_difference"]["output in medjax"] < 1e-3
    flags = ("--from", "4m", "--to", "medjax", "--input", tmp_path / "official", "--verify")
    named = ("--model-config", folder / "model.json")
    code, report, _ = tool(*flags, *named, "--output", tmp_path / "back")
    assert code == 0
    assert report["max_logit_difference"] == {"output in medjax": 0.0}
    code, report, said = tool(*flags, "--output", tmp_path / "no")
    assert (code, report) == (2, {})
    assert "config.json: modality 't1'" in said

    right = fourm.write_folder

    def wrong(written, path, **options):
        name = "decoder/norm/scale"
        array = tensors.lazy(np.roll(written.arrays[name].read(), 1))
        right(dataclasses.replace(written, arrays={**written.arrays, name: array}), path)

    monkeypatch.setattr(fourm, "write_folder", wrong)
    flags = ("--from", "medjax", "--to", "4m", "--input", folder, "--verify")
    with pytest.raises(RuntimeError, match="wrong: 1 arrays differ: decoder/norm/scale"):
        tool(*flags, "--output", tmp_path / "wrong")
