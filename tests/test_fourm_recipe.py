"""The recipe for one's own data of 4M: what it refuses, and run whole at a tiny size."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from medjax import config as config_lib
from medjax import pipelines
from medjax.errors import UserError
from medjax.modalities.table import with_entries
from medjax.models.fourm import variant
from medjax.models.fourm.variants import VARIANTS
from medjax.pipelines import fit
from medjax.pipelines.fourm import model, trained
from medjax.pipelines.fourm.make import make

TINY = dict(
    width=16, encoder_depth=1, decoder_depth=1, num_heads=2, gated=True, activation="silu"
)  # fmt: skip
LOSSES = {f"loss/{name}" for name in ("tok_image", "tok_mask", "report", "findings")}
STEPS = {"optimizer.warmup_steps": 1, "steps": 4, "eval_every": 0}


@pytest.fixture(scope="module")
def recipe(pytestconfig):
    return str(pytestconfig.rootpath / "configs" / "fourm.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """own.jsonl, images.jsonl and texts.jsonl: a square on noise, where it is, and what it is."""
    folder = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(6):
        top = int(rng.integers(0, 24))
        pixels, labels = rng.integers(0, 90, (48, 40, 3), np.uint8), np.zeros((48, 40), np.uint8)
        pixels[top : top + 24, 10:30], labels[top : top + 24, 10:30] = 200, 1
        Image.fromarray(pixels).save(folder / f"{i}.png")
        Image.fromarray(labels).save(folder / f"{i}-mask.png")
        box = {"box": [top / 48, 0.25, (top + 24) / 48, 0.75], "label": "square"}
        report = "high up" if top < 12 else "lower down"
        rows.append({"id": str(i), "image": f"{i}.png", "mask": f"{i}-mask.png"})
        rows[-1] |= {"report": f"a square {report}", "findings": [box]}
    for name, keys in {"own": rows[0], "images": ["image"], "texts": ["report"]}.items():
        lines = [json.dumps({key: row[key] for key in keys}) for row in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def small(recipe, folder, sources, stages):
    """The recipe with data, at a tiny size."""
    values = {f"data.train.{key}.source": folder / f"{key}.jsonl" for key in sources}
    values |= {f"modalities.{key}.image_size": 64 for key in ("image", "tok_image", "tok_mask")}
    values |= {f"stages.{stage}.{k}": v for stage in stages for k, v in STEPS.items()}
    values["stages.fourm.masking.input_tokens"] = "8,48"
    values["stages.fourm.masking.target_tokens"] = "16,16"
    values |= {"batch_size": 2, "wordpiece_vocab_size": 4500, "evaluate.num_steps": 2}
    values |= {"export.fourm": False, "evaluate.batch_size": 2, "log_every": 1}
    return config_lib.load(recipe, [f"--config.{key}={value}" for key, value in values.items()])


@pytest.fixture(scope="module")
def done(tmp_path_factory, recipe, folder):
    """The workdir of a run on samples that have all, and on texts alone."""
    stages = ("image_tokenizer", "mask_tokenizer", "fourm")
    config = small(recipe, folder, ("own", "texts"), stages)
    network = ConfigDict(dict(type="vit", width=16, depth=1, num_heads=2))
    with config.unlocked(), config.ignore_type():
        config.data.train.texts.weight = 1.0
        config.stages.fourm.model = ConfigDict(TINY)
        for stage in stages[:2]:
            config.stages[stage].tokenizer.encoder = network
            config.stages[stage].tokenizer.decoder = network
    path = tmp_path_factory.mktemp("runs") / "fourm"
    pipelines.run(config, path)
    return path


@pytest.mark.parametrize("name", [None, *VARIANTS])
def test_every_official_size(recipe, name):
    config = config_lib.load(recipe if name is None else f"{recipe}:{name}")
    stage = config.stages.fourm
    table = with_entries(config.modalities.to_dict())
    sizes = variant(stage.model, stage.inputs, stage.targets, modalities=table)
    expected = name or "fm_tiny_6e_6d_swiglu_nobias"
    assert f"_{sizes.encoder_depth}e_{sizes.decoder_depth}d_" in expected
    assert sizes.width == VARIANTS[expected]["width"]
    assert sizes.modality("tok_image").value == sizes.modality("image").value == "image"


@pytest.mark.parametrize(
    ("arg", "values", "message"),
    [
        (
            "",
            {},
            "image_tokenizer: there is no data to train on; set data.train.images.source or "
            "data.train.own",
        ),
        (
            "",
            {"data.train.texts.source": "texts.jsonl"},
            "image_tokenizer: .* with image .* set data.train.images.source or data.train.own",
        ),
        (":fm_huge", {"data.train.own.source": "own.jsonl"}, "'fm_huge' is none of fm_tiny"),
        (":lora", {}, "fourm: there is no data to train on; set data.train.own.source"),
        (":lora", {"data.train.own.source": "own.jsonl"}, "init"),
    ],
)
def test_what_lacks_is_named(recipe, folder, tmp_path, monkeypatch, arg, values, message):
    monkeypatch.chdir(folder)
    overrides = [f"--config.{key}={value}" for key, value in values.items()]
    with pytest.raises(UserError, match=message):
        pipelines.run(config_lib.load(recipe + arg, overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_on_two_sources(done, folder):
    lines = [json.loads(line) for line in (done / "fourm" / "metrics.jsonl").open()]
    texts = [line for line in lines if set(line) & LOSSES == {"loss/report"}]
    both = [line for line in lines if set(line) & LOSSES > {"loss/report"}]
    assert texts
    assert both
    (sample,) = make(done, {"image": str(folder / "0.png")}, ["tok_mask"]).samples
    assert set(np.unique(sample["tok_mask"])) <= {0, 1}


def test_adapters(done, recipe, folder, tmp_path, monkeypatch):
    """The stage that is planned: adapters on what the first run has trained, and its tokenizers."""
    planned = []
    monkeypatch.setattr(model.Plan, "run", lambda plan, *args: planned.append(plan))
    config = small(f"{recipe}:lora", folder, ("own",), ("fourm",))
    with config.unlocked():
        config.stages.fourm.init = str(done / "fourm" / "model")
        config.stages.fourm.tokenizers.tok_image = str(done / "image_tokenizer" / "model")
        config.stages.fourm.tokenizers.tok_mask = str(done / "mask_tokenizer" / "model")
    pipelines.run(config, tmp_path / "run")
    (plan,) = planned
    assert plan.model == trained.load(done).model.config
    assert fit.lora_config(plan.config).rank == 8
    assert set(plan.makers) == {"tok_image", "tok_mask"}
    assert (tmp_path / "run" / "wordpiece.json").read_text() == (
        done / "wordpiece.json"
    ).read_text()
