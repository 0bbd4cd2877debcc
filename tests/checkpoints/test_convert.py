import contextlib
import dataclasses
import json
import os
import pathlib
import resource
import subprocess
import sys
import types

import numpy as np
import pytest

from medjax.checkpoints import adapters, convert, huggingface, model_folder, peft, probe, tensors
from medjax.checkpoints.convert import Request
from medjax.data.tokenizer import train_tokenizer
from medjax.errors import UserError
from medjax.models import config as model_config
from medjax.models import variants
from medjax.models.lora import LoRAConfig

ROOT = pathlib.Path(__file__).parents[2]
REFERENCE = ROOT / "tests" / "reference" / "paligemma2"
NPZ, CONFIG_JSON = REFERENCE / "params.npz", REFERENCE / "config.json"
CONFIG = model_config.load(CONFIG_JSON)
LORA = LoRAConfig(rank=3, alpha=6, targets=("q_proj", "up_proj"))


def request(source, target, path, output, **options) -> Request:
    if source == "big_vision":
        options["model_config"] = str(CONFIG_JSON)
    return Request(source, target, pathlib.Path(path), pathlib.Path(output), **options)


def run(*args, **options) -> dict:
    return convert.convert(request(*args, **options))


def original() -> tensors.Checkpoint:
    return convert.open_any_model(NPZ, CONFIG)


def assert_equal(a: tensors.Checkpoint, b: tensors.Checkpoint) -> None:
    assert a.config == b.config
    for name, array in a:
        np.testing.assert_array_equal(array, b.arrays[name].read())


def random_adapter(base=None) -> adapters.Adapter:
    rng = np.random.default_rng(0)
    arrays = {
        name: tensors.lazy((0.3 * rng.standard_normal(shape)).astype(np.float32))
        for name, shape in adapters.adapter_specs(CONFIG, LORA).items()
    }
    return adapters.Adapter("random", LORA, arrays, base)


def test_round_trip_through_every_format(tmp_path):
    run("big_vision", "huggingface", NPZ, tmp_path / "hf")
    run("huggingface", "medjax", tmp_path / "hf", tmp_path / "medjax")
    run("medjax", "big_vision", tmp_path / "medjax", tmp_path / "back.npz")
    report = run("big_vision", "medjax", tmp_path / "back.npz", tmp_path / "again")
    assert_equal(original(), model_folder.open_model(tmp_path / "again"))
    assert report["parameters"] == sum(array.size for _, array in original())
    assert (report["adapter"], report["dtype"]) == ("none", ["float32"])


def test_dtype(tmp_path):
    report = run("big_vision", "medjax", NPZ, tmp_path / "m", dtype="bfloat16")
    assert report["dtype"] == ["bfloat16"]
    for name, array in model_folder.open_model(tmp_path / "m"):
        wanted = original().arrays[name].read().astype(array.dtype)
        np.testing.assert_array_equal(array, wanted)


@pytest.mark.parametrize("source", ["huggingface", "medjax"])
def test_model_config_must_be_the_inputs_own(source, tmp_path):
    run("big_vision", source, NPZ, tmp_path / "in")
    data = json.loads(CONFIG_JSON.read_text())
    # Another spelling of the same computation: queries scaled by the heads' width.
    data["llm"]["query_scale_dim"] = data["llm"]["head_dim"]
    (tmp_path / "same.json").write_text(json.dumps(data))
    for i, same in enumerate((CONFIG_JSON, tmp_path / "same.json")):
        run(source, "medjax", tmp_path / "in", tmp_path / f"out{i}", model_config=str(same))
    data["llm"]["attn_logits_softcap"], data["image_size"] = 30.0, 70
    (tmp_path / "other.json").write_text(json.dumps(data))
    for named, message in {
        str(tmp_path / "other.json"): "is 56, not 70, llm.attn_logits_softcap is 5.0, not 30.0$",
        "paligemma-3b-224": "image_size is 56, not 224.* and 10 more$",
        "gemma": "neither a .json file nor one of",
    }.items():
        with pytest.raises(UserError, match=message):
            run(source, "medjax", tmp_path / "in", tmp_path / "no", model_config=named)
    assert not (tmp_path / "no").exists()


def test_model_config_may_name_the_vocabulary_with_its_padding():
    official = variants.VARIANTS["paligemma-3b-224"]
    rows = dataclasses.replace(official.llm, vocab_size=variants.VOCAB_SIZE)
    unpadded = dataclasses.replace(official, llm=rows)
    convert.check_model(types.SimpleNamespace(where="hf", config=unpadded), official, "named")
    other = dataclasses.replace(official, llm=dataclasses.replace(rows, vocab_size=257_153))
    with pytest.raises(UserError, match=r"hf, whose llm\.vocab_size is 257153, not 257152$"):
        convert.check_model(types.SimpleNamespace(where="hf", config=other), official, "named")


@pytest.mark.parametrize("kind", ["peft", "medjax"])
def test_adapter_merges_into_the_same_logits(kind, tmp_path):
    adapter = random_adapter()
    if kind == "peft":
        peft.write_adapter(adapter, tmp_path / "adapter")
    else:
        adapter = dataclasses.replace(adapter, base=adapters.Base(str(NPZ)))
        model_folder.write_folder(tmp_path / "adapter", CONFIG, None, adapter)
    report = run("big_vision", "huggingface", NPZ, tmp_path / "hf", adapter=tmp_path / "adapter")
    assert report["adapter"] == "merged"
    question = probe.make(CONFIG)
    unmerged = probe.logits(original(), question, adapter)
    merged = probe.logits(huggingface.open_folder(tmp_path / "hf"), question)
    assert probe.difference(merged, unmerged) < 2e-5
    assert probe.difference(probe.logits(original(), question), unmerged) > 0.01


def test_kept_adapter_goes_on_to_peft_and_back(tmp_path):
    peft.write_adapter(random_adapter(), tmp_path / "peft")
    options = dict(adapter=tmp_path / "peft", keep_adapter=True)
    assert run("big_vision", "medjax", NPZ, tmp_path / "m", **options)["adapter"] == "kept"
    assert_equal(original(), model_folder.open_model(tmp_path / "m"))
    kept = model_folder.open_adapter(tmp_path / "m")
    assert kept.base == adapters.Base(str(NPZ), model_folder.content_hash(NPZ))
    run("medjax", "peft", tmp_path / "m", tmp_path / "again", base_model="org/base")
    again = peft.open_adapter(tmp_path / "again")
    assert again.base == adapters.Base("org/base")
    for name, array in random_adapter():
        np.testing.assert_array_equal(array, again.arrays[name].read())


def test_adapter_alone_finds_its_base_and_knows_it(tmp_path):
    base = tmp_path / "base.npz"
    base.write_bytes(NPZ.read_bytes())
    adapter = random_adapter(adapters.Base(str(base), model_folder.content_hash(base)))
    model_folder.write_folder(tmp_path / "lora", CONFIG, None, adapter)
    run("medjax", "medjax", tmp_path / "lora", tmp_path / "a")
    run("big_vision", "medjax", base, tmp_path / "b", adapter=tmp_path / "lora")
    wanted = adapters.merged(original(), adapter)
    for folder in ("a", "b"):
        assert_equal(wanted, model_folder.open_model(tmp_path / folder))

    run("big_vision", "big_vision", base, base, dtype="bfloat16", overwrite=True)
    with pytest.raises(UserError, match="was trained on"):
        run("medjax", "medjax", tmp_path / "lora", tmp_path / "c")
    with pytest.raises(UserError, match="was trained on"):
        run("big_vision", "medjax", base, tmp_path / "c", adapter=tmp_path / "lora")
    options = dict(adapter=tmp_path / "lora", other_base=True)
    run("big_vision", "medjax", base, tmp_path / "c", **options)
    base.unlink()
    with pytest.raises(UserError, match="is not there"):
        run("medjax", "medjax", tmp_path / "lora", tmp_path / "d")
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("format_", ["huggingface", "medjax", "big_vision"])
def test_adapter_of_peft_comes_in_with_its_base_of_any_format(format_, tmp_path):
    base = tmp_path / ("base.npz" if format_ == "big_vision" else "base")
    run("big_vision", format_, NPZ, base)
    named = {"model_config": str(CONFIG_JSON)} if format_ == "big_vision" else {}
    peft.write_adapter(random_adapter(adapters.Base(str(base))), tmp_path / "adapter")
    wanted = adapters.merged(original(), random_adapter())
    for i, options in enumerate([{}, {"base": base}]):
        for target in ("huggingface", "medjax"):
            out = tmp_path / f"{target}{i}"
            report = run("peft", target, tmp_path / "adapter", out, **options, **named)
            assert report["adapter"] == "merged"
            assert_equal(wanted, convert.open_any_model(out))
    run("peft", "big_vision", tmp_path / "adapter", tmp_path / "out.npz", **named)
    assert_equal(wanted, convert.open_any_model(tmp_path / "out.npz", CONFIG))
    options = {"keep_adapter": True, **named}
    run("peft", "medjax", tmp_path / "adapter", tmp_path / "kept", **options)
    for name, array in random_adapter():
        kept = model_folder.open_adapter(tmp_path / "kept").arrays[name].read()
        np.testing.assert_array_equal(kept, array)
    assert_equal(original(), model_folder.open_model(tmp_path / "kept"))


def test_tokenizer_of_the_base_goes_with_an_adapter_of_peft(tmp_path):
    run("big_vision", "huggingface", NPZ, tmp_path / "base")
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
    peft.write_adapter(random_adapter(), tmp_path / "adapter")
    run("peft", "huggingface", tmp_path / "adapter", tmp_path / "hf", base=tmp_path / "base")
    assert (tmp_path / "hf" / "tokenizer.json").read_text() == "{}"


def test_base_that_has_moved(tmp_path):
    adapter = random_adapter(adapters.Base("nowhere.npz", model_folder.content_hash(NPZ)))
    model_folder.write_folder(tmp_path / "lora", CONFIG, None, adapter)
    with pytest.raises(UserError, match="or convert with --base"):
        run("medjax", "medjax", tmp_path / "lora", tmp_path / "out")
    run("medjax", "medjax", tmp_path / "lora", tmp_path / "out", base=NPZ)
    assert_equal(adapters.merged(original(), adapter), model_folder.open_model(tmp_path / "out"))
    run("big_vision", "big_vision", NPZ, tmp_path / "other.npz", dtype="float16")
    with pytest.raises(UserError, match="was trained on"):
        run("medjax", "medjax", tmp_path / "lora", tmp_path / "no", base=tmp_path / "other.npz")


def test_base_that_cannot_be_checked_is_told_of(tmp_path, capsys):
    run("big_vision", "huggingface", NPZ, tmp_path / "base")
    peft.write_adapter(random_adapter(adapters.Base("org/elsewhere")), tmp_path / "adapter")
    options = dict(base=tmp_path / "base")
    run("peft", "huggingface", tmp_path / "adapter", tmp_path / "merged", **options)
    said = capsys.readouterr().err
    assert "warning" in said
    assert "which it calls org/elsewhere" in said
    assert f"that {tmp_path / 'base'} is that base cannot be checked" in said
    run("peft", "huggingface", tmp_path / "adapter", tmp_path / "m", **options, other_base=True)
    assert "cannot be checked" not in capsys.readouterr().err
    with pytest.raises(UserError, match=r"--base .*nowhere does not exist"):
        run("peft", "medjax", tmp_path / "adapter", tmp_path / "o", base=tmp_path / "nowhere")


def test_bases_that_make_no_sense(tmp_path):
    peft.write_adapter(random_adapter(), tmp_path / "adapter")
    for arguments, options, message in [
        (("peft", "medjax", tmp_path / "adapter"), {}, "does not name its base; give it as --base"),
        (("peft", "medjax", tmp_path / "adapter"), {"base": NPZ}, "--model-config of convert"),
        (("peft", "medjax", tmp_path / "adapter"), {"base": tmp_path}, "is no npz file"),
        (("big_vision", "medjax", NPZ), {"base": NPZ}, "--base goes with an adapter alone"),
        (("peft", "medjax", NPZ), {"base": NPZ}, "adapter_config.json cannot be read"),
    ]:
        with pytest.raises(UserError, match=message):
            run(*arguments, tmp_path / "out", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_adapter_of_a_model_that_transformers_lacks(tmp_path):
    data = json.loads(CONFIG_JSON.read_text())
    data["llm"]["query_scale_dim"] = 3
    model = model_config.from_dict(data)
    llm = dataclasses.replace(model.llm, num_heads=5, num_kv_heads=5)
    rng = np.random.default_rng(0)
    model = dataclasses.replace(model, llm=llm)
    named = {n: rng.standard_normal(s).astype("float32") for n, s in tensors.specs(model).items()}
    lora = {n: tensors.lazy(np.zeros(s, np.float32))
            for n, s in adapters.adapter_specs(model, LORA).items()}  # fmt: skip
    adapter = adapters.Adapter("random", LORA, lora)
    model_folder.write_folder(tmp_path / "m", model, tensors.in_memory(model, named), adapter)
    with pytest.raises(UserError, match="cannot be written for it"):
        run("medjax", "peft", tmp_path / "m", tmp_path / "adapter")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(source="orbax"), "--from 'orbax' is none of"),
        (dict(target="onnx"), "--to 'onnx' is none of"),
        (dict(dtype="int8"), "--dtype 'int8' is none of"),
        (dict(model_config=None), "give --model-config"),
        (dict(target="huggingface", keep_adapter=True), "--keep-adapter goes with"),
        (dict(tokenizer=pathlib.Path("none.model")), "is no file"),
    ],
)
def test_requests_that_make_no_sense(options, message):
    good = request("big_vision", "medjax", NPZ, "out")
    with pytest.raises(UserError, match=message):
        dataclasses.replace(good, **options)


def test_tokenizer_must_be_one_and_the_models(tmp_path):
    train_tokenizer(["what plane is this? axial"], tmp_path / "tokenizer.model", vocab_size=300)
    for path, message in [
        (CONFIG_JSON, "no sentencepiece model file"),
        (tmp_path / "tokenizer.model", "another model's tokenizer"),
    ]:
        with pytest.raises(UserError, match=message):
            run("big_vision", "medjax", NPZ, tmp_path / "out", tokenizer=path)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.model"]


def test_adapters_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="no adapter to write"):
        run("big_vision", "peft", NPZ, tmp_path / "out")
    with pytest.raises(UserError, match="none is given"):
        run("big_vision", "medjax", NPZ, tmp_path / "out", keep_adapter=True)
    with pytest.raises(UserError, match="holds neither"):
        run("big_vision", "medjax", NPZ, tmp_path / "out", adapter=tmp_path)
    with pytest.raises(UserError, match="no npz file, medjax folder or Hugging Face folder"):
        convert.open_any_model(tmp_path)
    assert list(tmp_path.iterdir()) == []


@contextlib.contextmanager
def small_disk(size: int):
    """No file may grow beyond `size` bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("target", [name for name in convert.TARGETS if name != "4m"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_is_left_when_the_disk_is_full(target, overwrite, tmp_path):
    peft.write_adapter(random_adapter(), tmp_path / "adapter")
    options = dict(adapter=tmp_path / "adapter", overwrite=overwrite)
    out = tmp_path / ("out.npz" if target == "big_vision" else "out")
    if overwrite:
        run("big_vision", target, NPZ, out, **options)
    before = model_folder.content_hash(tmp_path)
    with small_disk(4096), pytest.raises(UserError, match="File too large; nothing is left of it"):
        run("big_vision", target, NPZ, out, **options)
    assert model_folder.content_hash(tmp_path) == before
    assert {path.name for path in tmp_path.iterdir()} == {"adapter", *([out.name] * overwrite)}


def command(*args, path="") -> subprocess.CompletedProcess:
    paths = os.pathsep.join(filter(None, [str(path), os.environ.get("PYTHONPATH", "")]))
    return subprocess.run(
        [sys.executable, ROOT / "tools" / "convert.py", *map(str, args)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": paths},
    )


def test_command_prints_one_json_object_and_verifies(tmp_path):
    peft.write_adapter(random_adapter(), tmp_path / "adapter")
    done = command(
        "--from", "big_vision", "--to", "huggingface", "--input", NPZ, "--output", tmp_path / "hf",
        "--model-config", CONFIG_JSON, "--adapter", tmp_path / "adapter", "--verify", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["adapter"] == "merged"
    assert set(report["max_logit_difference"]) == {"output in transformers", "output in medjax"}
    assert max(report["max_logit_difference"].values()) < 2e-5


def test_command_asks_whoever_can_run_input_or_output(tmp_path):
    peft.write_adapter(random_adapter(), tmp_path / "adapter")
    run("big_vision", "huggingface", NPZ, tmp_path / "hf")
    flags = ("--from", "peft", "--input", tmp_path / "adapter", "--base", tmp_path / "hf")
    for target, asked in {
        "peft": {"input in PEFT", "output in medjax", "output in PEFT"},
        "big_vision": {"input in PEFT", "output in medjax"},
    }.items():
        out = tmp_path / f"{target}.npz"
        done = command(*flags, "--to", target, "--output", out, "--verify", "--json")
        assert done.returncode == 0, done.stderr
        differences = json.loads(done.stdout)["max_logit_difference"]
        assert set(differences) == asked
        assert max(differences.values()) < 2e-5


def test_command_says_who_is_not_there_to_be_asked(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda n, *a: None if n in ('torch', 'peft') else find(n, *a)\n"
    )
    peft.write_adapter(random_adapter(), tmp_path / "adapter")
    done = command(
        "--from", "big_vision", "--to", "peft", "--input", NPZ, "--output", tmp_path / "out",
        "--model-config", CONFIG_JSON, "--adapter", tmp_path / "adapter", "--verify", "--json",
        path=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["max_logit_difference"]) == {"output in medjax"}
    assert "output in PEFT: not compared; not installed: torch, peft" in done.stderr


def test_command_exits_with_2_and_leaves_nothing(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    flags = ("--from", "big_vision", "--to", "huggingface", "--model-config", CONFIG_JSON)
    for path, output in [(NPZ, tmp_path / "full"), (CONFIG_JSON, tmp_path / "new")]:
        done = command(*flags, "--input", path, "--output", output)
        assert done.returncode == 2, done.stderr
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        assert str(output if path == NPZ else path) in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["file"]
