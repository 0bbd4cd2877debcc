"""tools/score.py on masks in files."""

import json
import sys

import nibabel
import numpy as np
import pytest
import score
from flax import nnx
from PIL import Image

from medjax import cli
from medjax.checkpoints import mask_codec
from medjax.evaluation.predictions import read_jsonl
from medjax.models.mask_codec import MaskCodec

TRUE = np.array([[0, 1, 1, 0], [0, 2, 2, 0]], np.uint8)
MADE = np.array([[0, 1, 0, 0], [3, 2, 2, 0]], np.uint8)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Scores some rows of a file; exit code, predictions by id, what was said."""

    def run(rows, *arguments):
        path = tmp_path / "answers.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        monkeypatch.setattr(sys, "argv", ["score", "--predictions", str(path), *arguments])
        with pytest.raises(SystemExit) as exit_:
            cli.run(score.main)
        said = capsys.readouterr().err
        if exit_.value.code:
            return exit_.value.code, {}, said
        return 0, {p.id: p for p in read_jsonl(tmp_path / "answers.scores/predictions.jsonl")}, said

    return run


@pytest.fixture
def save(tmp_path):
    def save(name, labels):
        Image.fromarray(np.asarray(labels, np.uint8)).save(tmp_path / name)
        return name

    return save


def test_files_of_labels_and_of_single_classes(run, save, tmp_path):
    true, made = save("true.png", TRUE), save("made.png", MADE)
    ones, twos = save("1.png", 255 * (TRUE == 1)), save("2.png", 255 * (MADE == 9))
    unknown = save("unknown.png", np.where(MADE == 3, 255, TRUE))
    nothing = save("nothing.png", 0 * TRUE)
    rows = [
        {"id": "labels", "generated_mask": made, "truth_mask": true},
        {"id": "list", "generated_mask": [ones, twos], "truth_mask": true},
        {"id": "object", "generated_mask": {"liver": ones}, "truth_mask": {"liver": ones}},
        {"id": "unknown", "generated_mask": made, "truth_mask": unknown},
        {"id": "binary", "generated_mask": save("b.png", TRUE == 1), "truth_mask": ones},
        {"id": "empty", "generated_mask": nothing, "truth_mask": nothing},
        {"id": "silent", "generated_mask": None, "truth_mask": nothing},
    ]
    code, found, said = run(rows, "--metrics", "basic,answer_rate")
    assert code == 0, said
    third = 2 / 3
    assert {id: p.scores["dice"] for id, p in found.items()} == pytest.approx({
        "labels": (third + 1 + 0) / 3, "list": 0.5, "object": 1, "unknown": (third + 1) / 2,
        "binary": 1, "empty": 1, "silent": 0,
    })  # fmt: skip
    assert found["labels"].scores["dice/1"] == pytest.approx(third)
    assert "dice/3" not in found["labels"].scores
    assert (found["labels"].generated, found["labels"].truth) == ("mask of 1, 2, 3", "mask of 1, 2")
    assert (found["silent"].generated, found["silent"].scores["answer_rate"]) == ("", 0.0)
    assert {p.kind for p in found.values()} == {"segmentation"}
    table = json.loads((tmp_path / "answers.scores" / "results.json").read_text())
    assert table["tasks"]["segmentation"]["dice"]["questions"] == 7
    assert table["tasks"]["segmentation"]["dice/liver"]["questions"] == 1


def test_slices_of_volumes(run, save, tmp_path):
    volume = np.zeros((4, 2, 3), np.uint8)
    volume[..., 1] = TRUE[::-1].T  # a row of an image is from the back to the front
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "true.nii.gz")
    part = {"truth_mask": "true.nii.gz", "generated_mask": "true.nii.gz", "axis": "axial"}
    code, found, said = run([{"id": i, "slice": i} | part for i in range(2)])
    assert code == 0, said
    assert [p.generated for p in found.values()] == ["mask of nothing", "mask of 1, 2"]
    code, _, said = run([{"id": 0} | part])
    assert (code, "answers.jsonl:1: " in said, '"slice"' in said) == (2, True, True)


def test_what_is_wrong_is_told_with_file_and_line(run, save):
    good = {"id": "a", "generated_mask": save("a.png", TRUE), "truth_mask": save("t.png", TRUE)}
    for wrong, message in (
        ("none.png", "none.png do not exist"),
        (save("small.png", TRUE[:1]), "small.png has 1 x 4 pixels, but the true one"),
        ([], "a mask is the path"),
        ("{", "is not JSON"),
        (["a.png", "small.png"], "all classes' masks must be of one size"),
    ):
        code, _, said = run([good, good | {"id": "b", "generated_mask": wrong}])
        assert code == 2
        assert "answers.jsonl:2" in said
        assert message in said


def test_answers_in_seg_tokens(run, tmp_path):
    mask_codec.write_folder(MaskCodec(rngs=nnx.Rngs(0)), tmp_path / "codec")
    text = "<loc0000><loc0000><loc1023><loc0511>" + "<seg001>" * 16 + " liver"
    row = {"id": "a", "question": "segment liver", "prediction": text, "truth": text}
    assert run([row])[1]["a"].scores == {"iou": 1.0}
    code, found, said = run([row], "--mask-codec", str(tmp_path / "codec"))
    assert code == 0, said
    assert found["a"].scores == {"dice": 1.0, "dice/liver": 1.0}
    code, _, said = run([row], "--mask-codec", str(tmp_path / "answers.jsonl"))
    assert (code, "cannot be read as the mask codec" in said) == (2, True)
