"""The recipe for real weights: traced at full size, and run whole at a tiny one."""

import hashlib
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import peers
import pytest
from flax import nnx
from PIL import Image
from safetensors.numpy import load_file

from medjax import config as config_lib
from medjax.checkpoints import adapters, big_vision, mask_codec, model_folder, probe
from medjax.data.tokenizer import Tokenizer
from medjax.evaluation.comparison.systems import read_folder
from medjax.evaluation.predictions import read_jsonl
from medjax.models import lora, params, variants
from medjax.models.mask_codec import MaskCodec
from medjax.models.paligemma import PaliGemma
from medjax.pipelines import weights
from medjax.pipelines.fit import lora_config
from medjax.training import loss_scaling, optimizers
from medjax.training.objectives.paligemma import Answers
from medjax.training.step import TrainState, make_train_step, split

RECIPE = "configs/paligemma_lora.py"


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch, pytestconfig):
    monkeypatch.chdir(pytestconfig.rootpath)


@pytest.mark.parametrize("variant", variants.VARIANTS)
def test_every_official_model(variant):
    config = config_lib.load(f"{RECIPE}:{variant}")
    model = variants.resolve(config.model, config.image_size)
    assert model == variants.VARIANTS[variant]


def test_no_official_model():
    with pytest.raises(Exception, match="'3b' does not end in an image size"):
        config_lib.load(f"{RECIPE}:3b")


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_step_at_full_size(dtype):
    """The train step of PaliGemma-3B, abstractly: no weight is allocated."""
    config = config_lib.load(RECIPE)
    sizes = variants.resolve(config.model, config.image_size)

    def create():
        model = PaliGemma(
            sizes, dtype=dtype, param_dtype=dtype, remat=config.remat, rngs=nnx.Rngs(0)
        )
        lora.apply(model, lora_config(config), rngs=nnx.Rngs(1))
        return model

    model = nnx.eval_shape(create)
    # Rank 8 beside 18 layers: q and o (2048 + 2048), k and v (2048 + 256), three of the MLP.
    trainable = 18 * 8 * (2 * 4096 + 2 * 2304 + 3 * (2048 + 16_384))
    assert params.count(model, nnx.LoRAParam) == trainable == 9_805_824
    assert params.count(model) == 2_923_466_480 + trainable

    _, dropping, trained, carried, rest = split(model)
    optimizer = optimizers.create(config.optimizer, 1000)
    batch, length, side = config.batch_size, config.text_length, config.image_size
    ints = jax.ShapeDtypeStruct((batch, length), jnp.int32)
    arrays = {name: ints for name in ("tokens", "mask_ar", "mask_loss", "mask_input")}
    arrays["image"] = jax.ShapeDtypeStruct((batch, side, side, 3), jnp.float32)
    state = TrainState(
        jax.ShapeDtypeStruct((), jnp.int32),
        trained,
        jax.eval_shape(optimizer.init, trained),
        jax.eval_shape(lambda: loss_scaling.create(dtype)),
        carried,
        {},
    )
    step = make_train_step(
        dropping,
        Answers(config.loss.normalize),
        optimizer,
        seed=0,
        accumulation=config.accumulation,
        skip_overflows=dtype == jnp.float16,
    )
    lowered = jax.jit(step).lower(state, rest, (), arrays)
    after, metrics = lowered.out_info
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), (after.params, after.opt_state))
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), (state.params, state.opt_state))
    assert {x.dtype for x in after.params.values()} == {np.dtype(np.float32)}
    assert metrics["loss"].shape == ()
    # Neither the logits of a whole batch nor a mask of all pairs of tokens is ever made.
    text, tokens = lowered.as_text(), 256 + length - 1
    assert f"x{sizes.llm.vocab_size}x{sizes.llm.width}x" in text.replace("<", "x")
    for rows in (f"{batch}x{length - 1}", f"{batch * (length - 1)}"):
        assert f"{rows}x{sizes.llm.vocab_size}x" not in text
    assert f"{batch}x{tokens}x{tokens}x" not in text


def test_the_result_is_an_adapter_that_names_its_base(finished_run, tiny_weights):
    folder = finished_run / "train" / "model"
    assert sorted(path.name for path in folder.iterdir()) == [
        "lora.json", "lora.safetensors", "model.json", "tokenizer.model",
    ]  # fmt: skip
    base = tiny_weights / "tiny.npz"
    data = json.loads((folder / "lora.json").read_text())
    assert data["base"] == {
        "path": str(base), "sha256": hashlib.sha256(base.read_bytes()).hexdigest(),
    }  # fmt: skip
    assert (data["rank"], data["alpha"], data["dropout"]) == (8, 32.0, 0.1)
    arrays = load_file(folder / "lora.safetensors")
    assert len(arrays) == 14
    assert {str(array.dtype) for array in arrays.values()} == {"float32"}
    # Trained, all of it: B was zero.
    assert all(array.any() for array in arrays.values())
    tokenizer = (tiny_weights / "tokenizer.model").read_bytes()
    assert (folder / "tokenizer.model").read_bytes() == tokenizer


def test_checkpoints_hold_what_trains(finished_run):
    (path,) = (finished_run / "train" / "checkpoints").glob("*/state/_METADATA")
    names = json.loads(path.read_text())["tree_metadata"]
    arrays = [name for name in names if "language_model" in name]
    # Adapter, and Adam's two moments of it.
    assert len(arrays) == 3 * 14
    assert all("lora_" in name for name in arrays)
    assert not any("embed_tokens" in name or "vision_tower" in name for name in names)


def test_it_learns(finished_run):
    lines = (finished_run / "train" / "metrics.jsonl").read_text().splitlines()
    losses = {row["step"]: row["loss"] for row in map(json.loads, lines) if "loss" in row}
    assert list(losses) == [4, 8, 12]
    assert losses[12] < losses[4] - 0.5


def test_masks_are_scored_by_a_codec(command, finished_run, own_data, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    evaluation = run / "evaluation_validation"
    evaluation.mkdir()
    (evaluation / "system.json").write_text('{"name": "by hand", "source": "a paper"}')
    mask = "<loc0000><loc0000><loc1023><loc1023>" + "<seg007>" * 16 + " square"
    row = {"image": str(own_data / "test0.png"), "prefix": "segment square", "suffix": mask}
    (tmp_path / "masks.jsonl").write_text(json.dumps(row))
    mask_codec.write_folder(MaskCodec(rngs=nnx.Rngs(0)), tmp_path / "codec")
    done = command(
        "evaluate", f"--workdir={run}", "--part=validation", "--json",
        f"--config.data.validation.own.source={tmp_path / 'masks.jsonl'}",
        f"--config.evaluate.mask_codec={tmp_path / 'codec'}", "--config.evaluate.licence=mit",
    )  # fmt: skip
    assert done.code == 0, done.err
    scores = json.loads(done.out)["tasks"]["segmentation"]
    assert scores.keys() == {"dice", "dice/square"}
    [prediction] = read_jsonl(evaluation / "predictions.jsonl")
    assert prediction.kind == "segmentation"
    [system] = [s for s in read_folder(evaluation) if s.name == "by hand"]
    assert (system.licence, system.source) == ("mit", "a paper")
    [tested] = [s for s in read_folder(finished_run) if s.name == finished_run.name]
    assert tested.parameters == system.parameters > 10_000
    assert [p.kind for p in system.predictions] == ["segmentation"]


def test_evaluation(finished_run, own_data):
    results = json.loads((finished_run / "evaluation" / "results.json").read_text())
    assert results["systems"] == ["majority answer", "train"]
    assert results["groups"] == "images"
    assert results["overall"]["exact_match"]["questions"] == 5
    predictions = read_jsonl(finished_run / "evaluation" / "predictions.jsonl")
    truth = [json.loads(line) for line in (own_data / "test.jsonl").read_text().splitlines()]
    assert [(p.id, p.question, p.truth) for p in predictions] == [
        (row["id"], row["prefix"], row["suffix"]) for row in truth
    ]
    page = (finished_run / "evaluation" / "predictions.html").read_text()
    assert all(row["id"] in page for row in truth)


def test_transformers_computes_the_same(finished_run):
    folder = finished_run / "huggingface"
    question = probe.make(model_folder.read_config(finished_run / "train" / "model"))
    ours = probe.run(weights.load_result(finished_run / "train" / "model", jnp.float32), question)
    # Raises if a key is missing or left over.
    theirs = peers.huggingface_logits(folder, question)
    assert np.ptp(ours) > 1
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-4)


def test_generate(command, finished_run, own_data):
    image, prompt = own_data / "test1.png", "answer en which color?"
    done = command(
        "generate", f"--workdir={finished_run}", f"--image={image}", f"--prompt={prompt}", "--json"
    )
    assert done.code == 0
    assert prompt in done.out
    predictions = read_jsonl(finished_run / "evaluation" / "predictions.jsonl")
    wanted = next(p for p in predictions if p.id == "test-1").generated
    assert json.dumps(wanted) in done.out
    Image.open(image).verify()


def test_generate_on_another_machine(command, finished_run, own_data, tmp_path):
    """A run that was trained on eight devices answers on one."""
    run = shutil.copytree(finished_run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["mesh"] = {"data": 1, "fsdp": 8, "tensor": 1}
    (run / "config.json").write_text(json.dumps(config))
    ask = ("generate", f"--image={own_data / 'test1.png'}", "--prompt=which color?", "--json")
    done = command(*ask, f"--workdir={run}")
    assert done.code == 0, done.err
    assert "mesh data 1 x fsdp 8 x tensor 1 does not fit 1 devices; fsdp takes them all" in done.err
    assert done.out == command(*ask, f"--workdir={finished_run}").out


def test_another_base_is_refused(command, finished_run, tiny_weights, tmp_path):
    """An adapter computes something else beside other weights."""
    run = shutil.copytree(finished_run, tmp_path / "run")
    other = tmp_path / "tiny.npz"
    content = bytearray((tiny_weights / "tiny.npz").read_bytes())
    content[len(content) // 2] ^= 1
    other.write_bytes(content)
    path = run / "train" / "model" / "lora.json"
    path.write_text(path.read_text().replace(str(tiny_weights / "tiny.npz"), str(other)))
    done = command("evaluate", f"--workdir={run}")
    assert done.code == 2
    assert "error: " in done.err
    assert "was trained on" in done.err
    other.unlink()
    done = command("evaluate", f"--workdir={run}")
    assert done.code == 2
    assert f"its base {other} is not there" in done.err


FROZEN = {"lora.rank": 0, "optimizer.lr_multipliers": "(('vision_tower',0.0),)", "steps": 6}


@pytest.mark.parametrize("changes", [{}, FROZEN], ids=["adapters", "frozen tower"])
def test_a_run_goes_on_beside_its_own_base_alone(
    command, tiny_run, tiny_weights, tmp_path, changes
):
    """A checkpoint holds what trains; the rest is read again from the weights."""
    init = tmp_path / "tiny.npz"
    shutil.copy(tiny_weights / "tiny.npz", init)
    changes = {"init": init, "data.test.own.source": "", "export.huggingface": False} | changes
    arguments = [
        *(a for a in tiny_run if a.split("=")[0].removeprefix("--config.") not in changes),
        *(f"--config.{key}={value}" for key, value in changes.items()),
        f"--workdir={tmp_path / 'run'}",
    ]
    assert command("train", *arguments).code == 0
    model = tmp_path / "run" / "train" / "model"
    wanted = {p.name: p.read_bytes() for p in model.iterdir()}
    shutil.rmtree(model)  # as if it had been killed
    with np.load(init) as old:
        np.savez(init, **{name: 1.5 * array for name, array in old.items()})
    done = command("train", *arguments)
    assert done.code == 2
    assert f"was trained beside {init}" in done.err
    assert f"{init} holds other weights now" in done.err
    assert not model.exists()
    shutil.copy(tiny_weights / "tiny.npz", init)
    assert command("train", *arguments).code == 0
    assert {p.name: p.read_bytes() for p in model.iterdir()} == wanted


def test_from_an_adapter_of_an_earlier_run(command, tiny_run, finished_run, tiny_weights, tmp_path):
    """Its base and it are merged, and kept with the new adapter: no other file has their sum."""
    earlier = finished_run / "train" / "model"
    changed = {"--config.init": earlier, "--config.model": "", "--config.steps": 6}
    arguments = [a for a in tiny_run if a.split("=")[0] not in changed]
    arguments += [f"{key}={value}" for key, value in changed.items()]
    done = command("train", *arguments, f"--workdir={tmp_path / 'run'}")
    assert done.code == 0, done.err
    folder = tmp_path / "run" / "train" / "model"
    assert json.loads((folder / "lora.json").read_text())["base"] is None
    kept = load_file(folder / "params.safetensors")
    base = big_vision.open_npz(tiny_weights / "tiny.npz", model_folder.read_config(earlier))
    wanted = dict(adapters.merged(base, model_folder.open_adapter(earlier)))
    assert set(kept) == set(wanted)
    for name, array in wanted.items():
        np.testing.assert_array_equal(kept[name], array)


def test_from_a_hugging_face_folder(command, tiny_run, finished_run, tmp_path):
    """Its config and tokenizer come with it."""
    changed = {
        "--config.init": finished_run / "huggingface",
        "--config.tokenizer": "",
        "--config.model": "",
        "--config.steps": 6,
    }
    arguments = [a for a in tiny_run if a.split("=")[0] not in changed]
    arguments += [f"{key}={value}" for key, value in changed.items()]
    done = command("train", *arguments, f"--workdir={tmp_path / 'run'}")
    assert done.code == 0, done.err
    data = json.loads((tmp_path / "run" / "train" / "model" / "lora.json").read_text())
    assert data["base"]["path"] == str(finished_run / "huggingface")
    texts = ["answer en which color?", "it is red all over"]
    ours, theirs = (
        Tokenizer.load(p / "tokenizer.model")
        for p in (tmp_path / "run", finished_run / "huggingface")
    )
    assert [ours.encode(t) for t in texts] == [theirs.encode(t) for t in texts]


def test_adapters_in_two_stages(command, tiny_run, tmp_path):
    """The second begins with the first's adapter merged into the base, which it keeps."""
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        pathlib.Path(RECIPE).read_text().replace("return c", "return in_two_stages(c)")
        + "\n\ndef in_two_stages(c):\n"
        + "    c.stages = ConfigDict(dict(one=dict(seed=1), two=dict(lora=dict(rank=2))))\n"
        + "    return c\n"
    )
    changed = {"--config": recipe, "--config.steps": 6}
    arguments = [a for a in tiny_run if a.split("=")[0] not in changed]
    arguments += [f"{key}={value}" for key, value in changed.items()]
    done = command("train", *arguments, f"--workdir={tmp_path / 'run'}", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["results"]["systems"] == ["majority answer", "one", "two"]
    one, two = (tmp_path / "run" / name / "model" for name in ("one", "two"))
    assert not model_folder.has_params(one)
    kept = load_file(two / "params.safetensors")
    base = big_vision.open_npz(
        json.loads((one / "lora.json").read_text())["base"]["path"], model_folder.read_config(one)
    )
    for name, array in adapters.merged(base, model_folder.open_adapter(one)):
        np.testing.assert_array_equal(kept[name], array)
    assert model_folder.open_adapter(two).config.rank == 2
