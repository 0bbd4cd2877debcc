"""What was made, as files and in words, where no trained model is needed to know it."""

import json

import numpy as np
import pytest
from PIL import Image

from medjax.data.samples import Box
from medjax.errors import UserError
from medjax.modalities.display import colours
from medjax.modalities.table import MODALITIES, with_entries
from medjax.pipelines.fourm.given import read_given
from medjax.pipelines.fourm.made import Made

SEMSEG = with_entries({"tok_semseg": {"classes": ("other", "bone")}})["tok_semseg"]
TABLE = {**MODALITIES, "tok_semseg": SEMSEG}


@pytest.fixture
def made():
    labels = np.zeros((4, 4), np.int32)
    labels[:2, 0] = 1
    samples = [
        {
            "tok_rgb": np.full((8, 8, 3), shade, np.float32),
            "tok_semseg": labels,
            "det": (Box("bone", 0.0, 0.25, 0.5, 1.0),),
            "tok_clip": np.arange(3),
            "caption": f"sample {i}",
        }
        for i, shade in enumerate((-1.0, 1.0))
    ]
    modalities = {name: TABLE[name] for name in ("caption", *samples[0])}
    return Made(modalities, {"caption": "a bone"}, None, samples, 3)


def test_without_a_given_image_masks_lie_over_the_one_made_before(made, tmp_path):
    outcome = made.write(tmp_path / "new" / "folder")
    assert json.loads((tmp_path / "new" / "folder" / "made.json").read_text()) == outcome
    for i, shade in enumerate((0, 255)):
        told = outcome["samples"][i]
        assert told["tok_semseg"]["files"] == [f"tok_semseg-{i}.png", f"tok_semseg-{i}-over.png"]
        over = np.asarray(Image.open(tmp_path / "new" / "folder" / f"tok_semseg-{i}-over.png"))
        expected = np.full((8, 8, 3), shade)
        expected[:4, :2] = np.rint((shade + colours()[1].astype(float)) / 2)
        np.testing.assert_array_equal(over, expected)
        np.testing.assert_array_equal(
            np.load(tmp_path / "new" / "folder" / f"tok_clip-{i}.npy"), [0, 1, 2]
        )
    masks = Image.open(tmp_path / "new" / "folder" / "tok_semseg-0.png")
    np.testing.assert_array_equal(masks.convert("RGB"), colours()[np.asarray(masks)])


def test_an_unwritable_folder(made, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to"):
        made.write(tmp_path / "file" / "folder")


def test_words(made):
    assert list(made.lines())[:6] == [
        "tok_rgb 0: an image of 8 x 8 pixels",
        "tok_semseg 0: other 87.5%, bone 12.5%",
        "det 0: 1 box",
        "  bone: rows 0% to 50%, columns 25% to 100%",
        "tok_clip 0: 3 ids",
        "caption 0: sample 0",
    ]


def test_boxes_can_be_given_in_turn(made):
    (told, _) = made.to_dict()["samples"]
    again = read_given(MODALITIES["det"], json.dumps(told["det"]["boxes"]), {}, {})
    assert again.value("det") == made.samples[0]["det"]


def test_ids(tmp_path):
    modality = with_entries(
        {"codes": {"kind": "sequence_tokens", "vocab_size": 9, "max_length": 4}}
    )["codes"]
    np.save(tmp_path / "ids.npy", np.array([8, 0]))
    for text in (str(tmp_path / "ids.npy"), "[8, 0]"):
        ids = read_given(modality, text, {}, {}).value("codes")
        assert ids.dtype == np.int32
        assert ids.tolist() == [8, 0]
    with pytest.raises(UserError, match=r"given codes: .* holds the id 9; ids go from 0 to 8"):
        read_given(modality, "[1, 9]", {}, {})
    with pytest.raises(UserError, match=r"given codes: .*none\.npy do not exist"):
        read_given(modality, str(tmp_path / "none.npy"), {}, {})
    with pytest.raises(UserError, match="holds 2 ids instead of 196"):
        read_given(MODALITIES["tok_clip"], "[1, 2]", {}, {})
