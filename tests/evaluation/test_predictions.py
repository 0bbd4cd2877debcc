import json
import math

import numpy as np
import pytest

from medjax.data.example import Example
from medjax.errors import UserError
from medjax.evaluation import predictions

PIXELS = np.zeros((4, 4, 3), np.uint8)


def example(id="a", prefix="which plane?", suffix="axial", image_key="image", **extra):
    return Example(id, PIXELS, prefix, suffix, image_key, extra)


def test_from_example_scores_and_normalises():
    made = predictions.from_example(
        example(task="plane", slab=3), "Axial", log_prob=-1.5, num_tokens=3
    )
    assert (made.task, made.group, made.image_key) == ("plane", "3", "image")
    assert made.scores == {"exact_match": 1.0}
    assert made.log_prob_per_token == -0.5
    assert made.confidence == pytest.approx(math.exp(-0.5))
    assert (made.main_score, made.verdict) == (1.0, "correct")


def test_groups_and_tasks_have_defaults():
    assert predictions.from_example(example(), "x").group == "image"
    assert predictions.from_example(example(image_key=""), "x").group == "a"
    assert predictions.from_example(example(patient="p"), "x", group_key="patient").group == "p"
    assert predictions.from_example(example(), "x").task == "question"
    assert predictions.from_example(example(prefix="caption en"), "x").task == "caption"
    assert predictions.from_example(example(prefix="detect brain"), "x").task == "detection"


def test_verdicts():
    box = "<loc0000><loc0000><loc1000><loc{:04d}> brain"
    detect = example(prefix="detect brain", suffix=box.format(1000))
    verdicts = [
        predictions.from_example(detect, box.format(501)).verdict,
        predictions.from_example(detect, box.format(499)).verdict,
        predictions.from_example(example(), "coronal").verdict,
        predictions.from_example(example(suffix=""), "coronal").verdict,
        predictions.from_example(example(prefix="cap en", suffix="a b"), "a").verdict,
    ]
    assert verdicts == ["correct", "wrong", "wrong", "unscored", "wrong"]


def test_log_prob_needs_its_number_of_tokens():
    with pytest.raises(ValueError, match="together"):
        predictions.from_example(example(), "x", log_prob=-1.0)


def test_jsonl_comes_back(tmp_path):
    texts = ['"quotes" <b>', "line\nbreak\u2028\u0085", "ελλάδα 脳 🧠", "half \ud83e", "\x00\x1b"]
    written = [
        predictions.from_example(
            example(id=str(i), task="t", slice=np.int64(i), spacing=np.ones(3)),
            text,
            log_prob=np.float32(-0.25),
            num_tokens=2,
        )
        for i, text in enumerate(texts)
    ]
    path = tmp_path / "new" / "predictions.jsonl"
    predictions.write_jsonl(path, written)
    read = predictions.read_jsonl(path)
    assert [p.generated for p in read] == texts
    assert read[2].extra == {"task": "t", "slice": 2, "spacing": [1.0, 1.0, 1.0]}
    assert [(p.id, p.scores, p.log_prob) for p in read] == [
        (p.id, p.scores, p.log_prob) for p in written
    ]
    predictions.write_jsonl(tmp_path / "again", read)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    assert "脳" in path.read_text("utf-8")  # readable, not escaped


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "predictions.jsonl"
    predictions.write_jsonl(path, [predictions.from_example(example(), "x")])
    before = path.read_bytes()
    bad = predictions.from_example(example(thing=object()), "x")
    with pytest.raises(TypeError, match="object"):
        predictions.write_jsonl(path, [bad])
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.jsonl"]


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[1]",
        '{"id": "a"}',
        '{"unknown": 1}',
        {"id": 3},
        {"scores": {"iou": "high"}},
        {"scores": {"iou": float("nan")}},
        {"log_prob": "x"},
        {"truncated": 1},
        {"extra": []},
    ],
)
def test_bad_lines_are_named(tmp_path, line):
    path = tmp_path / "p.jsonl"
    predictions.write_jsonl(path, [predictions.from_example(example(), "x")])
    good = path.read_text("utf-8")
    if isinstance(line, dict):
        line = json.dumps(json.loads(good) | line)
    path.write_text(good + line + "\n", "utf-8")
    with pytest.raises(UserError, match=r"p\.jsonl, line 2: "):
        predictions.read_jsonl(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.jsonl: cannot read"):
        predictions.read_jsonl(tmp_path / "none.jsonl")


def test_by_id_refuses_twins():
    twins = [predictions.from_example(example(), "x")] * 2
    with pytest.raises(ValueError, match="'a'"):
        predictions.by_id(twins)
