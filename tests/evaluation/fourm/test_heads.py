"""What is told of models with different numbers of key/value heads."""

import dataclasses
import json
import math

import numpy as np
import pytest
from PIL import Image

from medjax.decoding.fourm.cache_size import CacheSize
from medjax.evaluation.fourm.heads import Ablation, Large, Score, Spread, Variant
from medjax.evaluation.table import Estimate


def variant(heads: int) -> Variant:
    size = CacheSize(64 * 2**10 * heads, 96 * 2**10 * heads)
    return Variant(
        heads=heads,
        parameters=1_000_000 + heads,
        losses={"loss": 2.0 / heads, "loss/caption": 3.0 / heads},
        scores={
            "t1 -> caption": Score("token_f1", Estimate(0.2 * heads, 0.1, 0.9)),
            "t1 -> tok": Score("psnr", Estimate(10.0 + heads, math.nan, math.nan)),
        },
        milliseconds={"train_step": Spread.of([9.0, 7.0 + heads, 2000.0])},
        relative={"train_step": Spread.of([1.0, 0.25 * heads, 3.0])},
        cache=size,
        formula=size,
    )


@pytest.fixture
def ablation() -> Ablation:
    return Ablation(
        title="Heads",
        queries=4,
        variants=[variant(4), variant(1)],
        timed={"train_step": "training step: 16 samples"},
        context=96,
        room=64,
        itemsize=4,
        large=Large("fm_huge_2e_2d", 8, 256, 256, {8: CacheSize(2**24, 2**25)}),
        about={"steps": 3000, "seed": 0, "groups": "slabs", "rounds": 3, "device": "abacus"},
    )


def test_the_table_has_a_column_for_each_model(ablation):
    text = ablation.to_markdown()
    cells = [
        [c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line
    ]
    rows = {row[0]: row[1:] for row in cells}
    assert rows["key/value heads, of 4"] == ["4", "1"]
    assert rows["validation loss of caption, nats a token"] == ["0.750", "3.000"]
    assert rows["t1 -> caption, token F1"] == ["0.80 [0.10, 0.90]", "0.20 [0.10, 0.90]"]
    assert rows["t1 -> tok, PSNR (dB)"] == ["14.00", "11.00"]
    assert rows["training step: 16 samples, ms"][1] == "8.0 / 9.0 / 2,000.0"
    assert rows["training step: 16 samples, relative to 4"][1] == "0.25 / 1.00 / 3.00"
    assert rows["decoder's own cache, 64 tokens, KiB"] == ["256", "64"]
    assert rows["keys and values of the context, 96 tokens, by the formula, KiB"] == ["384", "96"]
    assert rows["of the context, 256 tokens"] == ["32 MiB"]
    assert "3,000 steps" in text


def test_files(ablation, tmp_path):
    ablation.write(tmp_path / "new")
    told = json.loads((tmp_path / "new" / "gqa.json").read_text())
    assert [v["kv_heads"] for v in told["variants"]] == [4, 1]
    assert told["variants"][1]["scores"]["t1 -> tok"] == {
        "metric": "psnr", "value": 11.0, "low": None, "high": None,
    }  # fmt: skip
    assert told["variants"][0]["cache_bytes"] == {"past": 2**18, "context": 3 * 2**17}
    assert told["fm_huge_2e_2d"]["cache_bytes"]["8"]["past"] == 2**24
    assert ablation.to_markdown() in (tmp_path / "new" / "gqa.md").read_text()
    pixels = np.asarray(Image.open(tmp_path / "new" / "gqa.png").convert("RGB"))
    assert (pixels == (0, 114, 178)).all(-1).mean() > 0.01  # bars


def test_one_model_alone_is_compared_with_none(ablation):
    alone = dataclasses.replace(ablation, variants=ablation.variants[:1])
    assert "relative" not in alone.to_markdown()
    groups = {name: len(panels) for name, panels in alone.panels().items()}
    assert groups == {"Quality": 3, "Speed": 1, "Memory": 3}
