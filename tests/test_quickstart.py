"""The quickstart's own command, cut short: what it leaves behind is whole and fits together."""

import html
import json
import pathlib
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import peers
import pytest
import torch
import transformers

from medjax import config as config_lib
from medjax.checkpoints import model_folder, probe
from medjax.data import setup
from medjax.evaluation.predictions import read_jsonl
from medjax.pipelines import weights

_ROOT = pathlib.Path(__file__).parents[1]

STEPS = {"base": 40, "base_lora": 40}
EXAMPLES = 16


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """(workdir, what the command printed on stdout, what on stderr)."""
    path = tmp_path_factory.mktemp("quickstart") / "run"
    arguments = ["--json", f"--workdir={path}", f"--config.evaluate.examples={EXAMPLES}"]
    arguments += ["--config.batch_size=8", "--config.log_every=2"]
    for name, steps in STEPS.items():
        keys = {"steps": steps, "eval_every": steps, "optimizer.warmup_steps": 2}
        arguments += [f"--config.stages.{name}.{key}={value}" for key, value in keys.items()]
    command = [sys.executable, "-m", "medjax.train", "--config=configs/quickstart.py", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=_ROOT)
    assert result.returncode == 0, result.stderr
    return path, result.stdout, result.stderr


@pytest.fixture(scope="module")
def questions(done):
    """The test questions that were asked."""
    config = config_lib.load(str(_ROOT / "configs" / "quickstart.py"))
    return setup.Joined(setup.open_sources(config, "test"), EXAMPLES)


def test_the_folder_is_as_documented(done):
    path, _, _ = done
    files = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}
    outside = {f for f in files if "/checkpoints/" not in f and "tfevents" not in f}
    assert outside == {
        "config.json",
        "tokenizer.model",
        "export.json",
        *(f"{name}/{f}" for name in STEPS for f in ("metrics.jsonl", "curves.png")),
        *(f"{name}/model/{f}" for name in STEPS for f in ("model.json", "params.safetensors")),
        *(f"{name}/model/tokenizer.model" for name in STEPS),
        "base_lora/model/lora.json",
        "base_lora/model/lora.safetensors",
        *(f"evaluation/results.{kind}" for kind in ("json", "md")),
        *(f"evaluation/predictions.{kind}" for kind in ("jsonl", "parquet", "html", "png")),
        "evaluation/settings.json",
        "evaluation/system.json",
        *(f"huggingface/{f}" for f in (
            "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
            "tokenizer.model", "tokenizer_config.json", "preprocessor_config.json",
        )),
    }  # fmt: skip
    for name in STEPS:
        assert any(f.startswith(f"{name}/events.out.tfevents") for f in files)
        assert any(f.startswith(f"{name}/checkpoints/{STEPS[name]}/state/") for f in files)


def test_what_it_says(done):
    path, out, err = done
    outcome = json.loads(out)
    assert out.count("\n") == 1
    assert outcome["workdir"] == str(path)
    assert outcome["results"] == json.loads((path / "evaluation" / "results.json").read_text())
    assert outcome["export"]["max_logit_difference"] < 1e-4
    assert "base: " in err
    assert "(100.000 %)" in err
    assert "base_lora step 40: validation loss" in err
    assert "majority answer" in err
    assert "predictions.html" in err


def test_metrics(done):
    path, _, _ = done
    for name, steps in STEPS.items():
        lines = (path / name / "metrics.jsonl").read_text().splitlines()
        rows = {row["step"]: row for row in map(json.loads, lines)}
        assert list(rows) == list(range(2, steps + 1, 2))
        assert rows[steps]["learning_rate"] > 0
        assert 0 < rows[steps]["validation/loss"] < 10
        # Random answers among so many tokens would cost log(V) > 7.
        assert rows[steps]["loss"] < 7


def test_adapters_leave_the_base_as_it_was(done):
    path, _, _ = done
    base, adapted = (path / name / "model" / "params.safetensors" for name in STEPS)
    assert base.read_bytes() == adapted.read_bytes()


def test_results(done, questions):
    path, _, _ = done
    results = json.loads((path / "evaluation" / "results.json").read_text())
    assert results["systems"] == ["majority answer", "base", "base_lora"]
    assert results["groups"] == "slabs"
    asked = [questions[i] for i in range(len(questions))]
    assert set(results["tasks"]) == {example.extra["task"] for example in asked}
    for row in [r for metrics in results["tasks"].values() for r in metrics.values()]:
        for estimate in row["systems"].values():
            assert 0 <= estimate["value"] <= 1
            if estimate["low"] is not None:
                assert 0 <= estimate["low"] <= estimate["value"] <= estimate["high"] <= 1
    majority = results["overall"]["exact_match"]["systems"]["majority answer"]["value"]
    assert majority > 0.1
    predictions = read_jsonl(path / "evaluation" / "predictions.jsonl")
    assert [(p.id, p.question, p.truth) for p in predictions] == [
        (example.id, example.prefix, example.suffix) for example in asked
    ]
    page = html.unescape((path / "evaluation" / "predictions.html").read_text())
    assert all(example.id in page for example in asked)


def test_its_validation_questions(done, command, tmp_path):
    """They are the last stage's: the run as a whole names none."""
    path, _, _ = done
    run = shutil.copytree(path, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    changes = ["--config.evaluate.examples=8", "--config.evaluate.every_stage=False"]
    result = command("evaluate", f"--workdir={run}", "--part=validation", "--json", *changes)
    assert result.code == 0, result.err
    assert json.loads(result.out)["systems"] == ["majority answer", "base_lora"]
    predictions = read_jsonl(run / "evaluation_validation" / "predictions.jsonl")
    config = config_lib.load(str(_ROOT / "configs" / "quickstart.py"))
    (spec,) = config.stages.base_lora.data.validation.values()
    assert len(predictions) == 8
    assert {p.task for p in predictions} <= set(spec.tasks)
    error = command(
        "evaluate", f"--workdir={run}", "--part=validation", "--config.evaluate.group=x"
    )
    assert error.code == 2
    assert "evaluate.group is 'x'" in error.err


def test_transformers_computes_the_same_logits(done):
    path, _, _ = done
    folder = path / "base_lora" / "model"
    question = probe.make(model_folder.read_config(folder))
    ours = probe.run(weights.load_result(folder, jnp.float32), question)  # adapters not merged
    theirs = peers.huggingface_logits(path / "huggingface", question)
    assert np.ptp(ours) > 1
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-4)


def test_transformers_gives_the_same_answers(done, questions):
    """AutoProcessor and greedy `generate`, from the exported folder alone."""
    path, _, _ = done
    config = config_lib.load(str(_ROOT / "configs" / "quickstart.py"))
    folder = path / "huggingface"
    processor = transformers.AutoProcessor.from_pretrained(folder)
    model = transformers.PaliGemmaForConditionalGeneration.from_pretrained(
        folder, attn_implementation="eager"
    )
    predictions = read_jsonl(path / "evaluation" / "predictions.jsonl")
    assert any(p.generated for p in predictions)
    # Images at the model's size, so that two ways to resize do not matter.
    resized = setup.ImageTransform(config.image_size)
    for i in range(0, EXAMPLES, 4):
        pixels, prompt = resized(questions[i]), questions[i].prefix
        inputs = processor(images=pixels, text=f"<image>{prompt}", return_tensors="pt")
        with torch.inference_mode():
            out = model.generate(
                **inputs, max_new_tokens=config.decode.max_new_tokens, do_sample=False
            )
        new = out[0, inputs["input_ids"].shape[1] :]
        text = processor.tokenizer.decode(new, skip_special_tokens=True)
        assert text == predictions[i].generated, prompt
