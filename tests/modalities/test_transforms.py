"""From values to a batch's rows."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from medjax.data.image import resize, to_float
from medjax.data.samples import UNKNOWN, Box, Sample
from medjax.data.samples.batching import make_eval_batches
from medjax.errors import UserError
from medjax.modalities import transforms
from medjax.modalities.boxes import encode_box, parse_boxes
from medjax.modalities.table import Modality
from medjax.modalities.transforms import Arrays, SampleTransform, transform

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (30, 20, 1), np.uint8)
RGB = RNG.integers(0, 256, (30, 20, 3), np.uint8)
GRID = {"image_size": 16, "patch_size": 8}
IMAGE = Modality("tok_ct", "image_tokens", 64, content="image", source="ct", **GRID)
PATCHES = Modality("ct", "patches", channels=1, content="image", **GRID)
LABELS = Modality("organ", "image_tokens", 64, content="labels", **GRID)
TEXT = Modality("report", "sequence", 600, max_length=8, content="text")
BOXES = Modality("det", "sequence", 600, max_length=16, content="boxes")
GRID_IDS = Modality("tok_x", "image_tokens", 50, **GRID)
IDS = Modality("sound", "sequence_tokens", 50, max_length=6)


def _row(values, *modalities, **options):
    return transform(Sample("s7", values, where="here"), modalities, **options)


def test_images_in_the_channels_that_are_wanted():
    row = _row({"ct": GREY}, IMAGE, PATCHES)
    assert row["tok_ct"].shape == (16, 16, 3)
    assert row["ct"].shape == (16, 16, 1)
    assert row["ct"].dtype == row["tok_ct"].dtype == np.float32
    expected = to_float(resize(np.repeat(GREY, 3, axis=2), 16))
    np.testing.assert_array_equal(row["tok_ct"], expected)
    np.testing.assert_array_equal(row["ct"], expected[..., :1])
    row = _row({"ct": RGB}, IMAGE, PATCHES)
    np.testing.assert_array_equal(row["tok_ct"], to_float(resize(RGB, 16)))
    luma = np.asarray(Image.fromarray(RGB).convert("L"))[..., None]
    np.testing.assert_array_equal(row["ct"], to_float(resize(luma, 16)))
    row = _row({"ct": np.repeat(GREY, 3, axis=2)}, IMAGE, channels={"tok_ct": 1})
    np.testing.assert_array_equal(row["tok_ct"], expected[..., :1])


def test_a_value_is_read_once():
    read = []
    row = _row({"ct": lambda: read.append(1) or GREY}, IMAGE, PATCHES)
    assert len(read) == 1
    assert (row["id"], row["truncated"]) == ("s7", False)


def test_labels_are_never_mixed():
    labels = np.array([[0, 2, 1], [UNKNOWN, 4, 0]], np.uint8)
    small = dataclasses.replace(LABELS, image_size=2, patch_size=1)
    large = dataclasses.replace(LABELS, name="large", source="organ", image_size=6, patch_size=1)
    row = _row({"organ": labels}, small, large)
    assert row["organ"].dtype == np.int32
    # Middles of 2 pixels over 3 columns lie at 0.75 and 2.25.
    assert row["organ"].tolist() == [[0, 1], [UNKNOWN, 0]]
    np.testing.assert_array_equal(row["large"], labels.repeat(3, axis=0).repeat(2, axis=1))
    with pytest.raises(UserError, match="'organ': holds the class 4; there are classes 0 to 3"):
        _row({"organ": labels}, dataclasses.replace(large, name="organ"), channels={"organ": 4})


def test_a_text_ends_with_eos_unless_it_is_cut(wordpiece):
    row = _row({"report": "no Fracture"}, TEXT, wordpiece=wordpiece)
    length = int(row["report/length"])
    ids = row["report"]
    assert (ids.dtype, ids.shape, row["report/length"].dtype) == (np.int32, (8,), np.int32)
    assert ids[: length - 1].tolist() == wordpiece.encode("no fracture")
    assert ids[length - 1] == wordpiece.eos_id
    assert not ids[length:].any()
    assert not row["truncated"]
    long = "no fracture seen " * 3
    row = _row({"report": long}, TEXT, wordpiece=wordpiece)
    assert row["report"].tolist() == wordpiece.encode(long)[:8]
    assert row["report/length"] == 8
    assert row["truncated"]
    # What spells a special token is ordinary text.
    row = _row({"report": "[EOS]"}, TEXT, wordpiece=wordpiece)
    assert (row["report"] == wordpiece.eos_id).sum() == 1


def test_boxes_in_order_with_their_chunks(wordpiece):
    far, near = Box("brain", 0.5, 0.3, 1.0, 0.75), Box("liver", 0.125, 0.4, 0.6, 0.5)
    row = _row({"det": (far, near)}, BOXES, wordpiece=wordpiece)
    ids = wordpiece.encode(
        # x before y, in 100 bins from 0 to 99.
        "v0=40 v1=12 v2=50 v3=59 liver v0=30 v1=50 v2=74 v3=99 brain",
        allow_special=True,
    )
    one = len(wordpiece.encode("liver")) + 4
    end = len(ids)
    assert row["det"][:end].tolist() == ids
    assert row["det"][end] == wordpiece.eos_id
    assert not row["det"][end + 1 :].any()
    assert row["det/length"] == end + 1
    assert row["det/chunks"].dtype == np.int32
    assert row["det/chunks"].tolist() == [0] * one + [1] * (end - one) + [2] * (16 - end)
    assert not row["truncated"]
    back = parse_boxes(wordpiece, row["det"])
    assert [box.label for box in back] == ["liver", "brain"]
    np.testing.assert_allclose([box[1:] for box in back], [near[1:], far[1:]], atol=0.5 / 99 + 1e-6)


def test_boxes_that_do_not_fit_are_left_out_whole(wordpiece):
    boxes = tuple(Box("liver", 0.1 * i, 0.1 * i, 0.9, 0.9) for i in range(4))
    one = len(encode_box(wordpiece, boxes[0]))
    tight = dataclasses.replace(BOXES, max_length=2 * one + 1)
    row = _row({"det": boxes}, tight, wordpiece=wordpiece)
    assert row["truncated"]
    assert row["det/length"] == 2 * one
    assert len(parse_boxes(wordpiece, row["det"])) == 2
    assert wordpiece.eos_id not in row["det"]
    assert (np.diff(row["det/chunks"]) >= 0).all()
    assert row["det/chunks"].max() < tight.length
    row = _row({"det": ()}, tight, wordpiece=wordpiece)
    assert (row["det/length"], row["truncated"]) == (1, False)
    assert row["det"][0] == wordpiece.eos_id


GOOD = "v0=10 v1=20 v2=30 v3=40 white matter"
GOOD_BOX = Box("white matter", 20 / 99, 10 / 99, 40 / 99, 30 / 99)


@pytest.mark.parametrize(
    "text",
    [
        "brain {}",  # a label without a box
        "v0=1 v1=2 v2=3 brain {}",  # a coordinate that lacks
        "v0=1 v1=2 v3=3 v2=4 brain {}",  # out of order
        "v0=1 v1=2 v2=3 v3=4 {}",  # no label
        "v0=5 v1=2 v2=3 v3=4 brain {}",  # inside out
        "v0=1 v1=9 v2=3 v3=4 brain {}",
        "v0=1 v1=2 v2=3 v3=4 brain [S_1] {}",  # no word
        "v0=7 {}",
        "{} v0=1 v1=2 v2=3",
        "{} [EOS] v0=1 v1=2 v2=3 v3=4 brain",  # beyond the end
    ],
)
def test_only_well_formed_boxes_are_read(wordpiece, text):
    ids = wordpiece.encode(text.format(GOOD), allow_special=True)
    [box] = parse_boxes(wordpiece, ids)
    assert box.label == "white matter"
    np.testing.assert_allclose(box[1:], GOOD_BOX[1:])


def test_ids_beyond_the_vocabulary_are_no_label(wordpiece):
    ids = wordpiece.encode("v0=1 v1=2 v2=3 v3=4 brain", allow_special=True)
    assert len(parse_boxes(wordpiece, ids)) == 1
    assert parse_boxes(wordpiece, [*ids, wordpiece.vocab_size]) == ()
    assert parse_boxes(wordpiece, []) == ()


def test_ids_are_taken_as_they_are():
    grid, sequence = np.arange(4, dtype=np.int32), np.arange(1, 9, dtype=np.int32)
    row = _row({"tok_x": grid, "sound": sequence[:3]}, GRID_IDS, IDS)
    assert row["tok_x"].tolist() == [0, 1, 2, 3]
    assert row["sound"].tolist() == [1, 2, 3, 0, 0, 0]
    assert row["sound/length"] == 3
    row = _row({"sound": sequence}, IDS)
    assert row["sound"].tolist() == [1, 2, 3, 4, 5, 6]
    assert row["truncated"]


@pytest.mark.parametrize(
    ("modality", "value", "message"),
    [
        (IMAGE, None, "here: the sample 's7' has no 'ct'; it has nothing"),
        (IMAGE, GREY[..., 0], r"'tok_ct': is uint8 .30, 20.; expected uint8 .H, W, 1. or"),
        (PATCHES, GREY.astype(np.float32), "'ct': is float32"),
        (IMAGE, "a.png", "'tok_ct': is 'a.png'"),
        (LABELS, GREY, r"'organ': is uint8 .30, 20, 1.; expected uint8 .H, W."),
        (TEXT, GREY, "'report': is uint8 .*; expected a text"),
        (TEXT, "half \ud83e", "'report': The text .* holds half a surrogate"),
        (BOXES, [(0, 0, 1, 1)], "'det': is .*; expected a tuple of boxes"),
        (BOXES, (Box("a", 0.0, 0.0, 1.5, 1.0),), r"'det': .*is no box"),
        (GRID_IDS, np.zeros(3, np.int32), "'tok_x': has 3 ids instead of 4"),
        (GRID_IDS, np.full(4, 50, np.int32), "'tok_x': holds the id 50; ids go from 0 to 49"),
        (IDS, np.array([1, -1], np.int32), "'sound': holds the id -1"),
        (IDS, np.zeros(3), "'sound': is float64 .3.; expected int32"),
    ],
)
def test_a_wrong_value_names_sample_and_modality(wordpiece, modality, value, message):
    values = {} if value is None else {modality.value: value}
    with pytest.raises(UserError, match=message) as info:
        _row(values, modality, wordpiece=wordpiece)
    assert "here: the sample 's7'" in str(info.value)


@pytest.mark.parametrize(
    ("modality", "message"),
    [
        (dataclasses.replace(TEXT, vocab_size=9), "'report': vocab_size is 9, and .*json has"),
        (dataclasses.replace(TEXT, content="image"), "'image' becomes patches, image_tokens, and"),
        (Modality("t5", "sequence_embeddings", max_length=4, channels=8), "this is sequence_emb"),
        (dataclasses.replace(IDS, content="smell"), "content 'smell' is none of image, labels"),
        (dataclasses.replace(PATCHES, channels=2), "'ct': an image has 1 or 3 channels, not 2"),
        (dataclasses.replace(LABELS, source="ct"), "'organ': 'ct' cannot be labels and image"),
    ],
)
def test_modalities_that_cannot_be_made(wordpiece, modality, message):
    with pytest.raises(UserError, match=message):
        SampleTransform((IMAGE, modality), wordpiece)


def test_texts_need_a_tokenizer():
    with pytest.raises(UserError, match="'report': text needs a WordPiece tokenizer"):
        SampleTransform((TEXT,))


def test_a_new_content_is_an_entry_and_a_function(monkeypatch):
    """A dose, in steps of 10 mg, is one token."""

    def dose(value, modality, context):
        return Arrays(np.array([value // 10], np.int32), {"length": np.asarray(1, np.int32)})

    monkeypatch.setitem(transforms.TRANSFORMS, "dose", dose)
    modality = Modality("dose", "sequence_tokens", 100, max_length=1, content="dose")
    samples = [Sample(f"s{mg}", {"dose": mg}) for mg in (20, 50, 130)]
    [batch] = make_eval_batches(samples, lambda sample: transform(sample, [modality]), 3)
    assert batch.arrays["dose"].tolist() == [[2], [5], [13]]
    assert batch.arrays["dose/length"].tolist() == [1, 1, 1]
    assert batch.ids == ("s20", "s50", "s130")


def test_embeddings_are_padded_and_cut():
    prior = Modality("prior", "sequence_embeddings", max_length=3, channels=2, content="embeddings")
    vectors = np.arange(8, dtype=np.float32).reshape(4, 2)
    row = _row({"prior": vectors[:2]}, prior)
    np.testing.assert_array_equal(row["prior"], [*vectors[:2], [0, 0]])
    assert (row["prior/length"], row["truncated"]) == (2, False)
    row = _row({"prior": vectors}, prior)
    np.testing.assert_array_equal(row["prior"], vectors[:3])
    assert (row["prior/length"], row["truncated"]) == (3, True)
    with pytest.raises(UserError, match="'prior': has embeddings 1 wide instead of 2"):
        _row({"prior": vectors[:, :1]}, prior)
