"""The command `python -m medjax.generate`, on a tiny run that was never trained."""

import json
import math
import sys

import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict
from PIL import Image

from medjax import cli, generate, workdir
from medjax import config as config_lib
from medjax.checkpoints import model_folder
from medjax.data import image
from medjax.data.prompts import pack_prompt
from medjax.data.tokenizer import train_tokenizer
from medjax.decoding import DecodeConfig, Decoder
from medjax.evaluation.predictions import Prediction
from medjax.models import params, variants
from medjax.models.paligemma import PaliGemma
from medjax.pipelines.paligemma import ask

IMAGE_SIZE, TEXT_LENGTH, STEPS = 16, 24, 5
PROMPTS = ("detect brain", "caption en")


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """(workdir, model, tokenizer, path of an image) of a run with one stage."""
    folder = tmp_path_factory.mktemp("run")
    recipe = ConfigDict(dict(image_size=IMAGE_SIZE, text_length=TEXT_LENGTH, dtype="float32"))
    recipe.decode = ConfigDict(dict(max_new_tokens=STEPS))
    there = workdir.Workdir.of(folder / "run")
    workdir.create(there, config_lib.resolve(recipe))
    tokenizer = train_tokenizer(["detect brain", "caption en", "axial slice"], there.tokenizer, 300)
    sizes = dict(
        img=dict(width=16, depth=1, mlp_dim=16, num_heads=2, patch_size=8),
        llm=dict(
            width=16, depth=1, mlp_dim=32, num_heads=2, num_kv_heads=1, head_dim=8,
            vocab_size=tokenizer.vocab_size,
        ),
    )  # fmt: skip
    model = PaliGemma(variants.resolve(sizes, IMAGE_SIZE), rngs=nnx.Rngs(0))
    model_folder.save_model(
        there.model("train"), model.config, params.flatten(model), tokenizer_path=there.tokenizer
    )
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "scan.png")
    return there, model, tokenizer, folder / "scan.png"


@pytest.fixture
def command(run_of, monkeypatch, capsys):
    """Runs the command; returns (exit code, stdout, stderr)."""

    def run(*arguments, workdir=run_of[0].path, image=run_of[3]):
        argv = ["generate", f"--workdir={workdir}", f"--image={image}", *arguments]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as stop:
            cli.run(generate.main)
        return stop.value.code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("flags", "decode", "seed"),
    [
        ((), DecodeConfig(max_new_tokens=STEPS), 0),
        (
            ("--method=sample", "--max_new_tokens=3", "--top_p=0.9", "--seed=4"),
            DecodeConfig("sample", 3, top_p=0.9),
            4,
        ),
    ],
    ids=["the run's own", "from the command line"],
)
def test_answers_are_the_decoders(command, run_of, flags, decode, seed):
    _, model, tokenizer, path = run_of
    code, out, err = command(*(f"--prompt={prompt}" for prompt in PROMPTS), *flags, "--json")
    assert code == 0, err
    result = json.loads(out)

    pixels = image.to_float(image.resize(np.asarray(Image.open(path)), IMAGE_SIZE))
    packed = [pack_prompt(tokenizer, prompt, TEXT_LENGTH) for prompt in PROMPTS]
    expected = Decoder(model, decode, eos_id=tokenizer.eos_id)(
        np.stack([pixels] * 2),
        *(np.stack([getattr(p, k) for p in packed]) for k in ("tokens", "mask_ar", "mask_input")),
        seed=seed,
    )
    assert result["image"] == str(path)
    assert [answer["prompt"] for answer in result["answers"]] == list(PROMPTS)
    for row, answer in enumerate(result["answers"]):
        assert answer["text"] == tokenizer.decode(expected.tokens[row].tolist())
        assert math.isclose(answer["log_prob"], float(expected.log_prob[row]), rel_tol=1e-5)
        mean = float(expected.mean_log_prob[row])
        assert math.isclose(answer["log_prob_per_token"], mean, rel_tol=1e-5)


def test_boxes_are_in_pixels(command, monkeypatch):
    text = "<loc0000><loc0341><loc1023><loc0682> brain ; <loc0005> nothing"
    told = Prediction("", "", PROMPTS[0], text, "", "", "", log_prob=-1.0, log_prob_per_token=-0.1)
    monkeypatch.setattr(ask.Asker, "__call__", lambda *_: [told])
    code, out, _ = command("--prompt=detect brain", "--json")
    assert code == 0
    # The image has 40 rows and 60 columns; 341 / 1023 is a third.
    expected = [{"label": "brain", "box": [0.0, 20.0, 40.0, 40.0]}]
    assert json.loads(out)["answers"][0]["boxes"] == expected
    _, out, _ = command("--prompt=detect brain")
    assert text in out
    assert "confidence 0.90" in out
    assert "brain: rows 0 to 40, columns 20 to 40 (pixels)" in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--prompt= "], "a prompt is empty"),
        (["--prompt=" + "long " * 30], "text_length is 24"),
        (["--prompt=a", "--stage=other"], "no stage 'other'; it has train"),
        (["--prompt=a", "--temperature=2"], "choose method 'sample'"),
        (["--prompt=a", "--slice=3"], "leave --slice out"),
        (["--prompt=a", "--frame=-1"], "On the command line"),
        (["--prompt=a", "--seed=-1"], "seed -1"),
    ],
)
def test_wrong_input(command, flags, message):
    code, out, err = command(*flags, "--json")
    assert code == 2
    assert out == ""
    assert message in err


def test_wrong_paths(command, tmp_path, run_of):
    code, out, err = command("--prompt=a", workdir=tmp_path)
    assert (code, out) == (2, "")
    assert "no workdir of a run" in err
    code, out, err = command("--prompt=a", image=tmp_path / "scan.png")
    assert (code, out) == (2, "")
    assert "scan.png does not exist" in err
    workdir.create(workdir.Workdir.of(tmp_path), workdir.read_config(run_of[0].path))
    code, out, err = command("--prompt=a", workdir=tmp_path)
    assert (code, out) == (2, "")
    assert "not trained yet" in err


def test_another_method_leaves_the_runs_settings_behind(run_of):
    config = workdir.read_config(run_of[0].path)
    config.decode.update(dict(method="beam", num_beams=4, length_penalty=0.0))
    kept = ask._configured(config, {"num_beams": 3}, 1, None).decode.to_dict()
    assert kept == vars(DecodeConfig("beam", STEPS, num_beams=3, length_penalty=0.0))
    other = ask._configured(config, {"method": "sample", "top_p": 0.5}, 1, None).decode.to_dict()
    assert other == vars(DecodeConfig("sample", STEPS, top_p=0.5))
