"""A mistake in a recipe or its data is told of in one line, before anything is written."""

import json
import re
import shutil

import numpy as np
import pytest

from medjax.checkpoints import image_tokenizer

# Changed keys of the config, and what the error says.
MISTAKES = {
    "unknown tokenizer": (
        {"tokenizers.tok_scan": "scan_tokeniser"},
        "fourm: tokenizers.tok_scan is 'scan_tokeniser', which is neither a stage nor a folder; "
        "stages before it that train one: scan_tokenizer, organ_tokenizer",
    ),
    "no tokenizer": ({"tokenizers.tok_organ": ""}, "fourm: tokenizers.tok_organ is not set: name"),
    "a later tokenizer": (
        {"stage_order": "scan_tokenizer,fourm,organ_tokenizer,adapted"},
        "tokenizers.tok_organ is the stage 'organ_tokenizer', which trains no tokenizer before",
    ),
    "no stage of a tokenizer": (
        {"tokenizers.tok_scan": "fourm"}, "is the stage 'fourm', which trains no tokenizer before"
    ),
    "images for masks": (
        {"tokenizers.tok_organ": "scan_tokenizer", "modalities.tok_organ.vocab_size": 16,
         "stages.organ_tokenizer.tokenizer.quantizer.levels": "(4, 4)"},
        "the tokenizer scan_tokenizer is one of images, but tok_organ has labels",
    ),
    "other vocabulary": (
        {"modalities.tok_scan.vocab_size": 32},
        "the tokenizer makes 16 ids, but modality 'tok_scan' has a vocabulary of 32; they must",
    ),
    "tokenizer of another": (
        {"tokenizers.tok_scan": "organ_tokenizer"},
        r"the tokenizer organ_tokenizer has .* \(16, 4, 15\), the modality \(16, 4, 16\)",
    ),
    "unknown modality": (
        {"stages.scan_tokenizer.modality": "tok_skan"},
        "scan_tokenizer: modality 'tok_skan' is none of",
    ),
    "no modality of tokens": (
        {"stages.scan_tokenizer.modality": "caption"},
        r"'caption' \(sequence of text\) is none that a tokenizer makes",
    ),
    "unknown input": (
        {"stages.fourm.inputs": "scan,tok_scam"}, "fourm: inputs: modality 'tok_scam' is none of"
    ),
    "unknown target": ({"stages.fourm.targets": "scan"}, "targets: 'scan' .* has no ids"),
    "unknown modality of a source": (
        {"data.train.own.modalities": "tok_scan,captoin"},
        "data.train.own.modalities: modality 'captoin' is none of",
    ),
    "a loss of what is not predicted": (
        {"stages.fourm.early_stopping.metric": "loss/scan"},
        "fourm: early_stopping.metric is 'loss/scan', which validation does not tell; name one of "
        "accuracy, loss, loss/.*tok_organ",
    ),
    "a figure that tokenizers do not have": (
        {"stages.scan_tokenizer.early_stopping.metric": "psnr"},
        "scan_tokenizer: .*'psnr', .*; name one of commitment, loss, perplexity, reconstruct",
    ),
    "patience without validation": (
        {"stages.fourm.early_stopping.patience": 2, "stages.fourm.eval_every": 0},
        "fourm: early_stopping.patience is 2, but nothing is validated",
    ),
    "a direction not read": (
        {"evaluate.directions": "rgb -> tok_organ"}, "direction 'rgb -> tok_organ': modality 'rgb'"
    ),
    "a direction not predicted": (
        {"evaluate.directions": "tok_scan -> scan"}, "scan has no ids to predict"
    ),
    "no direction": ({"evaluate.directions": "scan tok_organ"}, "write what is given, an arrow"),
    "no picture": ({"evaluate.shown": "0"}, "evaluate.shown is 0; it must be at least 1"),
    "no draw": ({"evaluate.top_p": "0.0"}, r"top_p 0.0 is not in \(0, 1\]"),
    "no group": ({"evaluate.group": "hospital"}, "evaluate.group is 'hospital', but test-0"),
    "steps and epochs": ({"epochs": "1.0"}, "set steps or epochs, and not both"),
    "neither": ({"steps": "0"}, "set steps or epochs"),
    "long warm-up": (
        {"stages.fourm.optimizer.warmup_steps": "6"}, "fourm: .*warmup_steps 6 must be in"
    ),
    "no room for words": ({"wordpiece_vocab_size": "40"}, "A vocabulary of 40 has no room for"),
    "few sentinels": ({"wordpiece_sentinels": "4"}, "can take 6 sentinels, and there are 4"),
    "missing file": ({"data.train.own.source": "there.jsonl"}, "no file there.jsonl"),
    "missing test file": ({"data.test.own.source": "there.jsonl"}, "no file there.jsonl"),
    "no data": ({"data.train.own.source": ""}, "scan_tokenizer: there is no data to train on; set"),
    "missing weights": ({"stages.adapted.init": "there"}, "init there does not exist"),
    "adapters of nothing": (
        {"stages.fourm.lora.rank": "2"}, "fourm: lora.rank is set, so that only adapters"
    ),
    "adapters of a tokenizer": (
        {"stages.scan_tokenizer.lora.rank": "2"}, "scan_tokenizer: lora.rank is set, and a tokeni"
    ),
    "weights of a tokenizer": (
        {"stages.scan_tokenizer.init": "there"}, "scan_tokenizer: init is set, and a tokenizer"
    ),
    "other inputs than before": (
        {"stages.adapted.inputs": "scan"},
        "adapted: inputs are scan, but the model that it begins with has scan, tok_scan, tok_organ",
    ),
    "misspelt reconstruction": (
        {"stages.organ_tokenizer.reconstruction": "l2"}, "reconstruction loss 'l2'"
    ),
    "budget": ({"masking.input_tokens": "(100, 120)"}, "more than the 70 tokens"),
    "accumulation": ({"stages.fourm.accumulation": "3"}, "batch_size 4 cannot be cut"),
    "mesh": ({"mesh.tensor": "3"}, "mesh data -1 x fsdp 1 x tensor 3 does not fit 1 devices"),
}  # fmt: skip

# What a recipe says wrong that the command line could not: lines of Python after it.
RECIPES = {
    "key of a modality": ("c.modalities.scan.sizes = 3", "modalities.scan has unknown keys"),
    "key of a tokenizer": (
        "c.stages.scan_tokenizer.tokenizer.encoder.widht = 8",
        "scan_tokenizer: tokenizer: (en|de)coder has unknown keys",
    ),
    "key of a model": ("c.stages.fourm.model.widht = 8", "fourm: model has unknown keys"),
    "another model than before": (
        "c.stages.adapted.model = 'fm_tiny_6e_6d_gelu'",
        "adapted: model has width 384, but the one that it begins with has 16",
    ),
    "key of a source": ("c.data.train.own.sorce = 'x'", "unknown key data.train.own.sorce"),
    "what follows": (
        "c.stages.scan_tokenizer.tokenizer.patch_size = 4", "tokenizer.patch_size follows from"
    ),
    "classes": (
        "c.modalities.tok_organ.classes = ('other', 'a', 'b')\n"
        "c.stages.organ_tokenizer.tokenizer.channels = 2",
        "tokenizer.channels is 2, but modality 'tok_organ' names 3 classes",
    ),
    "tokenizer of no tokens": (
        "c.tokenizers.code = 'scan_tokenizer'", "tokenizers.code is none of the modalities whose"
    ),
    "alphas of none": (
        "c.data.train.own.input_alphas = dict(scam=(1.0,))", "input_alphas: scam is none of"
    ),
}  # fmt: skip


def one_error(done) -> str:
    """The error of a command; what it said before is not looked at."""
    assert done.code == 2, done.err
    assert done.out == ""
    *_, last = done.err.splitlines()
    assert last.startswith("error: "), done.err
    assert done.err.count("error: ") == 1
    return last


@pytest.fixture
def refused(command, tmp_path, monkeypatch):
    """Trains with arguments that cannot be used; returns the error. Nothing is written."""

    def run(arguments) -> str:
        (tmp_path / "empty").mkdir()
        monkeypatch.chdir(tmp_path / "empty")
        error = one_error(command("train", *arguments, "--workdir=run"))
        assert list((tmp_path / "empty").iterdir()) == []
        return error

    return run


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(refused, fourm_arguments, changed, name):
    changes, message = MISTAKES[name]
    assert re.search(message, refused(changed(fourm_arguments, changes)))


@pytest.mark.parametrize("name", RECIPES)
def test_mistakes_in_the_recipe(refused, edited, tmp_path, name):
    lines, message = RECIPES[name]
    assert re.search(message, refused(edited(lines, tmp_path / "recipe.py")))


def row(**changes):
    def change(rows):
        for key, value in changes.items():
            if value is None:
                del rows[2][key]
            else:
                rows[2][key] = value

    return change


BAD_ROWS = {
    "no caption": ("train", row(caption=None), 'train.jsonl:3: .*"caption"'),
    "no scan of a test sample": ("test", row(scan=None), 'test.jsonl:3: .*"scan"'),
    "no box of a test sample": ("test", row(det=None), 'test.jsonl:3: .*"det"'),
    "no ids of a validation sample": ("validation", row(code=None), 'validation.jsonl:3: .*"code"'),
    "id beyond": ("train", row(code=[0, 1, 7, 2]), "train.jsonl:3: .*holds the id 7; ids go from"),
    "too few ids": ("train", row(code=[0, 1, 2]), "train.jsonl:3: .*holds 3 ids instead of 4"),
    "ids in a file": ("train", row(code="ids.npy"), "train.jsonl:3: .*ids.npy holds the id 9;"),
    "class beyond": ("train", row(organ="train0.png"), "train.jsonl:3: .*hold the class"),
    "missing image": ("test", row(scan="there.png"), "test.jsonl:3: .*there.png does not exist"),
    "box beyond": (
        "train", row(det=[{"box": [0, 0, 2, 1], "label": "organ"}]), 'train.jsonl:3: .*"det" has a'
    ),
    "nothing": ("train", list.clear, "train.jsonl"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_named(refused, fourm_data, fourm_arguments, tmp_path, name):
    part, change, message = BAD_ROWS[name]
    folder = shutil.copytree(fourm_data, tmp_path / "data")
    file = folder / f"{part}.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    change(rows)
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    np.save(folder / "ids.npy", np.array([[0, 1], [9, 2]]))
    arguments = [a.replace(str(fourm_data), str(folder)) for a in fourm_arguments]
    assert re.search(message, refused(arguments))


def test_a_folder_that_is_no_tokenizer(refused, fourm_arguments, fourm_data, changed):
    error = refused(changed(fourm_arguments, {"tokenizers.tok_scan": fourm_data}))
    assert f"{fourm_data / image_tokenizer.CONFIG} cannot be read" in error
