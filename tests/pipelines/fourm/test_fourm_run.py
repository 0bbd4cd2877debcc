"""Whole runs of 4M: from files to tokenizers, the model, its scores and an export."""

import dataclasses
import json
import shutil

import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import load_file, save_file

from medjax import pipelines
from medjax.checkpoints import fourm, model_folder
from medjax.data.wordpiece import WordPiece
from medjax.errors import UserError
from medjax.modalities import table
from medjax.pipelines import weights
from medjax.pipelines.fourm import evaluation, trained
from medjax.workdir import Workdir, read_config


def lines_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_model_learns(own_run):
    for stage in ("scan_tokenizer", "organ_tokenizer", "fourm"):
        losses = [
            row["loss"] for row in lines_of(own_run / stage / "metrics.jsonl") if "loss" in row
        ]
        assert losses[-1] < losses[0], stage


def test_results_are_of_all_test_samples_in_every_direction(own_run):
    results = json.loads((own_run / "evaluation" / "results.json").read_text())
    said = (own_run / "evaluation" / "results.md").read_text()
    assert {name: list(scores) for name, scores in results["tasks"].items()} == {
        "scan -> tok_organ": ["dice", "dice/organ"],
        "tok_scan,caption -> det": ["iou"],
    }
    for name, scores in results["tasks"].items():
        assert name in said
        for score in scores.values():
            assert (score["samples"], score["patients"]) == (5, 3)


def test_an_adapter_lies_beside_the_base_that_the_stage_before_it_trained(own_run):
    folder, before = own_run / "adapted" / "model", own_run / "fourm" / "model"
    base, trained = (load_file(path / "params.safetensors") for path in (folder, before))
    assert base.keys() == trained.keys()
    for name, array in trained.items():
        np.testing.assert_array_equal(base[name], array, err_msg=name)
    adapter = load_file(folder / "lora.safetensors")
    assert max(np.abs(x).max() for name, x in adapter.items() if name.endswith("lora_b")) > 1e-3


def test_the_export_is_the_merged_model(own_run):
    config = read_config(own_run)
    # config.json of the official format has no room for a text's vocabulary or one's own sizes.
    written = fourm.open_folder(
        own_run / "ml-4m", modalities=table.with_entries(config.modalities.to_dict())
    )
    trained = weights.open_result(own_run / "adapted" / "model").checkpoint
    assert written.config == trained.config
    assert written.config.modality("caption").vocab_size == (
        WordPiece.load(own_run / "wordpiece.json").vocab_size
    )
    base = model_folder.open_model(own_run / "adapted" / "model")
    moved = 0
    for name, array in trained.arrays.items():
        merged = array.read()
        np.testing.assert_array_equal(written.arrays[name].read(), merged, err_msg=name)
        moved += not np.array_equal(base.arrays[name].read(), merged)
    assert moved == 2 * 7 + 4  # kernels of attention and MLP, and of attention across
    assert written.tokenizer is not None
    assert written.tokenizer.read_bytes() == (own_run / "wordpiece.json").read_bytes()


def test_what_is_kept_is_the_average(own_run):
    state = ocp.StandardCheckpointer().restore(own_run / "fourm" / "checkpoints" / "6" / "state")
    kept = load_file(own_run / "fourm" / "model" / "params.safetensors")
    assert kept.keys() == state["average"].keys()
    for name, array in kept.items():
        np.testing.assert_array_equal(array, state["average"][name], err_msg=name)
        assert not np.array_equal(array, state["params"][name]), name


def test_a_finished_run_is_told_of_at_once(own_run, fourm_arguments, command):
    def snapshot():
        return {p: p.stat().st_mtime_ns for p in own_run.rglob("*") if p.is_file()}

    before = snapshot()
    done = command("train", *fourm_arguments, f"--workdir={own_run}", "--json")
    assert done.code == 0, done.err
    for word in ("trained already", "evaluated already", "exported already"):
        assert word in done.err
    outcome = json.loads(done.out)
    assert outcome["results"] == json.loads((own_run / "evaluation/results.json").read_text())
    assert outcome["export"] == {"fourm": str(own_run / "ml-4m")}
    assert outcome["reconstructions"].keys() == {"scan_tokenizer", "organ_tokenizer"}
    assert {path.name for path, when in snapshot().items() if before.get(path) != when} <= {
        "config.json"
    }


def test_another_part_may_be_asked_for(own_run, command):
    before = (own_run / "evaluation" / "results.json").read_bytes()
    done = command(
        "evaluate", f"--workdir={own_run}", "--part=validation", "--json",
        "--config.evaluate.directions=scan -> tok_organ",
    )  # fmt: skip
    assert done.code == 0, done.err
    folder = own_run / "evaluation_validation"
    found = json.loads((folder / "results.json").read_text())
    assert found == json.loads(done.out)
    assert list(found["tasks"]) == ["scan -> tok_organ"]
    assert found["tasks"]["scan -> tok_organ"]["dice"]["samples"] == 6
    assert (own_run / "evaluation" / "results.json").read_bytes() == before


def test_masks_whose_classes_have_no_names_are_scored(own_run):
    """As of a tokenizer's folder and the official table."""
    of_run = trained.load(own_run)
    config = of_run.model.config
    unnamed = tuple(dataclasses.replace(m, classes=()) for m in config.modalities)
    of_run.model.config = dataclasses.replace(config, modalities=unnamed)
    of_run.config.evaluate.directions = ("scan -> tok_organ",)
    found = evaluation.evaluate(of_run, "adapted", "test").results().to_dict()
    named = json.loads((own_run / "evaluation" / "results.json").read_text())
    scores, before = (of["tasks"]["scan -> tok_organ"] for of in (found, named))
    assert list(scores) == ["dice", "dice/class 1"]
    assert scores["dice"] == before["dice"]


def test_a_mistaken_evaluation_leaves_the_results_as_they_are(own_run, command):
    before = {path: path.read_bytes() for path in (own_run / "evaluation").iterdir()}
    done = command("evaluate", f"--workdir={own_run}", "--config.evaluate.directions=det -> det")
    assert done.code == 2
    assert {path: path.read_bytes() for path in (own_run / "evaluation").iterdir()} == before


@pytest.fixture
def begins_with(own_run, tmp_path, edited):
    """Copies of a finished run's export and tokenizers, and a run of adapters upon them."""
    folder = tmp_path / "begun with"
    shutil.copytree(own_run / "ml-4m", folder / "ml-4m")
    for modality in ("scan", "organ"):
        shutil.copytree(own_run / f"{modality}_tokenizer" / "model", folder / modality)
    lines = (
        "c.stage_order = ()\n"
        "c.stages = ConfigDict(dict(adapted=c.stages.adapted))\n"
        f"c.stages.adapted.init = {str(folder / 'ml-4m')!r}\n"
        f"c.tokenizers.tok_scan = {str(folder / 'scan')!r}\n"
        f"c.tokenizers.tok_organ = {str(folder / 'organ')!r}\n"
        "c.evaluate.directions = ('scan -> code',)"
    )
    return folder, edited(lines, tmp_path / "recipe.py")


def test_a_run_may_begin_with_an_export(begins_with, tmp_path, train, stopped):
    """And goes on with these weights and tokenizers alone."""
    folder, arguments = begins_with
    run = tmp_path / "run"
    assert "stopped at step 4" in stopped(arguments, run, "adapted", 4)
    swaps = {"scan": "quantizer/codes", "ml-4m": "encoder_norm.weight"}
    for name, changes in swaps.items():
        file = folder / name / "model.safetensors"
        kept = file.read_bytes()
        arrays = load_file(file)
        arrays[changes] = arrays[changes] + 1
        save_file(arrays, file)
        with pytest.raises(UserError, match=rf"(trained beside|the tokenizer) {folder / name} "):
            train(arguments, run)
        file.write_bytes(kept)
    outcome = train(arguments, run)
    assert (run / "wordpiece.json").read_bytes() == (folder / "ml-4m/wordpiece.json").read_bytes()
    # The weights are named and not copied.
    assert not model_folder.has_params(run / "adapted" / "model")
    adapter = json.loads((run / "adapted" / "model" / "lora.json").read_text())
    assert adapter["base"]["path"] == str(folder / "ml-4m")
    merged = fourm.open_folder(
        outcome["export"]["fourm"],
        modalities=table.with_entries(read_config(run).modalities.to_dict()),
    )
    assert merged.tokenizer is not None

    shutil.copytree(folder / "organ", folder / "scan", dirs_exist_ok=True)
    with pytest.raises(UserError, match=r"tokens of tok_scan that the tokenizer .* made"):
        pipelines.evaluate(read_config(run), Workdir(run))


def test_float16_learns_from_sources_with_and_without_images(tmp_path, edited, train):
    lines = (
        "c.stage_order, c.stages = (), ConfigDict()\n"
        "c.dtype, c.steps, c.log_every, c.checkpoint_every = 'float16', 24, 1, 24\n"
        "c.optimizer = ConfigDict(dict(learning_rate=1e-2))\n"
        "c.inputs, c.targets = ('scan', 'code', 'caption'), ('code', 'caption')\n"
        "c.model = ConfigDict(dict(width=16, encoder_depth=1, decoder_depth=1, num_heads=2))\n"
        "c.tokenizers = ConfigDict()\n"
        "c.data.test = ConfigDict()\n"
        "c.data.train.texts = ConfigDict(c.data.train.own)\n"
        "c.data.train.texts.modalities = ('caption',)\n"
    )
    outcome = train(edited(lines, tmp_path / "recipe.py"), tmp_path / "run")
    assert "results" not in outcome
    rows = lines_of(tmp_path / "run" / "train" / "metrics.jsonl")
    # The first steps find the loss scale.
    skipped = [row.get("skipped_steps", 0) for row in rows]
    assert sum(skipped) < 8
    assert not any(skipped[8:])
    there = [row for row in rows if "loss" in row]
    with_images = ["loss/code" in row for row in there]
    assert 0.25 < np.mean(with_images) < 0.75
    captions = [row["loss/caption"] for row in there if "loss/caption" in row]
    assert np.mean(captions[-5:]) < np.mean(captions[:5]) - 0.5
