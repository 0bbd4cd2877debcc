"""A run that answers as it trains, stops early, and is asked without its images at the end."""

import importlib
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from medjax import config as config_lib
from medjax import pipelines, workdir
from medjax.data import setup
from medjax.data.tokenizer import Tokenizer
from medjax.errors import UserError
from medjax.evaluation import answered, asking, grounding
from medjax.evaluation.predictions import read_jsonl
from medjax.pipelines import weights

CHANGES = {
    "eval_every": 2,
    "eval_answers": 4,
    "early_stopping.metric": "score",
    "early_stopping.patience": 2,
    "early_stopping.min_delta": 1.0,  # so that no score is an improvement on the first
    "restore_best": False,
    "evaluate.grounding": True,
    "export.huggingface": False,
}


def load(tiny_run, **changes):
    recipe, *overrides = tiny_run
    given = CHANGES | changes
    kept = [a for a in overrides if a.split("=")[0].removeprefix("--config.") not in given]
    kept += [f"--config.{key}={value}" for key, value in given.items()]
    return config_lib.load(recipe.removeprefix("--config="), kept)


@pytest.fixture(scope="module")
def followed(tiny_run, tmp_path_factory):
    """The workdir, the answers that were scored in training, and how often decoding was traced."""
    path, scored, traced = tmp_path_factory.mktemp("followed") / "run", [], []

    def figures(predictions):
        scored.append(list(predictions))
        return answered_figures(scored[-1])

    def counted(*args, **kwargs):
        traced.append(args[1].shape)
        return plain_decode(*args, **kwargs)

    decode = importlib.import_module("medjax.decoding.decode")  # its name is a function's, too
    answered_figures, plain_decode = answered.figures, decode.decode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answered, "figures", figures)
        patch.setattr(decode, "decode", counted)
        pipelines.run(load(tiny_run), path)
    return path, scored[1:], len(traced)  # the first tells the names before training


def rows(path):
    lines = (path / "train" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_answers_are_scored_at_each_evaluation(followed):
    path, scored, _ = followed
    told = [row for row in rows(path) if "validation/loss" in row]
    assert [row["step"] for row in told] == [2, 4, 6]
    assert [row["epoch"] for row in told] == pytest.approx([8 / 18, 16 / 18, 24 / 18])
    assert [{p.id for p in predictions} for predictions in scored] == [
        {p.id for p in scored[0]}
    ] * 3
    assert len(scored[0]) == 4
    for row, predictions in zip(told, scored, strict=True):
        score = np.mean([p.main_score for p in predictions])
        assert row["validation/score"] == row["validation/exact_match"] == score


def test_decoding_is_compiled_once_for_training_and_once_for_the_end(followed):
    assert followed[2] == 2


def test_the_answers_are_those_of_the_weights_of_then(followed, tiny_run, monkeypatch):
    path, scored, _ = followed
    config, folder = load(tiny_run), workdir.Workdir.of(path)
    tokenizer = Tokenizer.load(folder.tokenizer)
    model = weights.load_result(folder.model("train"), jnp.float32)
    held_out = setup.Joined(setup.open_sources(config, "validation"))
    chosen = answered.chosen(held_out, 4)
    used, ask = [], asking.Decoder.__call__

    def spied(self, *args, **kwargs):
        used.append({id(array) for array in jax.tree.leaves(self.state)})
        return ask(self, *args, **kwargs)

    monkeypatch.setattr(asking.Decoder, "__call__", spied)
    asker = asking.Asker(tokenizer, config)
    again = asker(model, chosen, "train")
    assert [p.generated for p in asker(model, chosen, "train")] == [p.generated for p in again]
    # The model's own arrays, the first time and later: no weight is copied.
    assert used == [{id(array) for array in jax.tree.leaves(nnx.state(model))}] * 2
    assert [p.generated for p in again] == [p.generated for p in scored[-1]]
    assert [p.log_prob for p in again] == pytest.approx([p.log_prob for p in scored[-1]], rel=1e-4)
    # The weights were others before.
    assert [p.log_prob for p in again] != pytest.approx([p.log_prob for p in scored[0]], rel=1e-2)


def test_blank_is_the_middle_of_the_models_input(followed, tiny_run):
    """With it, an image says nothing: whatever it shows, the answers are the same."""
    path, _, _ = followed
    config, folder = load(tiny_run), workdir.Workdir.of(path)
    calls = []

    def ask(model, source, name, **how):
        calls.append(how)
        return []

    ask.transform = setup.make_transform(config, Tokenizer.load(folder.tokenizer))
    source = setup.Joined(setup.open_sources(config, "test"))
    assert list(grounding.answers(ask, None, source, config, "lora")) == [
        "lora, blank image", "lora, shuffled images",
    ]  # fmt: skip
    blank, shuffled = calls[0]["transform"], calls[1]["asked"]
    ours, theirs = blank(source[0]), ask.transform(source[0])
    assert ours["image"].shape == theirs["image"].shape
    assert not ours["image"].any()
    np.testing.assert_array_equal(ours["tokens"], theirs["tokens"])
    assert all(shuffled[i].image_key != source[i].image_key for i in range(len(source)))


def test_the_end_tells_what_survives(followed):
    path, _, _ = followed
    results = json.loads((path / "evaluation" / "results.json").read_text())
    assert results["systems"] == [
        "majority answer", "train, blank image", "train, shuffled images", "train",
    ]  # fmt: skip
    assert results["grounding"]["overall"]["exact_match"]["questions"] == 5
    assert len(read_jsonl(path / "evaluation" / "predictions.jsonl")) == 5


def test_a_stopped_run_is_done(followed, tiny_run, tmp_path, capsys):
    """Killed before its model was written, it gets the same one, and takes no further step."""
    path = shutil.copytree(followed[0], tmp_path / "run")
    stage = path / "train"
    wanted = {p.name: p.read_bytes() for p in (stage / "model").iterdir()}
    before = (stage / "metrics.jsonl").read_bytes()
    assert (stage / "curves.png").is_file()
    shutil.rmtree(stage / "model")
    pipelines.run(load(tiny_run), path)
    assert {p.name: p.read_bytes() for p in (stage / "model").iterdir()} == wanted
    assert (stage / "metrics.jsonl").read_bytes() == before
    said = capsys.readouterr().err
    assert "continuing from step 6" in said
    assert "train step" not in said


def test_what_is_not_told_is_no_metric(tiny_run, tmp_path):
    """Known before anything is written: without answers there is no score."""
    with pytest.raises(UserError, match=r"'score', which validation does not tell.*accuracy, loss"):
        pipelines.run(load(tiny_run, eval_answers=0), tmp_path / "run")
    with pytest.raises(UserError, match="name one of accuracy, exact_match, loss, score"):
        pipelines.run(load(tiny_run, **{"early_stopping.metric": "iou"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
