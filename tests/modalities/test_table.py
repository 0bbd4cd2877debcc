"""The table of modalities, and looking them up."""

import numpy as np
import pytest

from medjax.errors import UserError
from medjax.models.fourm import MODALITIES, Modality, lookup
from medjax.models.fourm.positions import SEQUENCE_ROWS, fixed_positions


def test_names_with_and_without_a_size():
    assert lookup("tok_rgb@448").image_size == 448
    assert lookup("tok_rgb@448").name == "tok_rgb@448"
    assert lookup("tok_rgb@448").length == 28**2
    assert lookup("tok_rgb").length == 14**2
    assert lookup("tok_dinov2@224").length == 16**2
    assert lookup("tok_dinov2_global", image_size=112).length == 2**2
    assert lookup("rgb@64").features == 16 * 16 * 3
    assert lookup("t5_caption").features == 4096
    assert lookup("caption") is MODALITIES["caption"]


def test_whole_names_go_first():
    own = Modality("tok_rgb@64", "image_tokens", 32, image_size=64, patch_size=16)
    assert lookup("tok_rgb@64", {**MODALITIES, own.name: own}) is own


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sound", "modality 'sound' is none of rgb, caption"),
        ("rgb@big", "'big' is no size in pixels"),
        ("rgb@", "'' is no size in pixels"),
        ("caption@224", "caption is no image"),
        ("rgb@100", "image_size 100 is no multiple of patch_size 16"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(UserError, match=message):
        lookup(name)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "sound"}, "kind 'sound' is none of patches"),
        ({"kind": "sequence", "max_length": 4}, "vocab_size is None"),
        ({"kind": "sequence", "vocab_size": 4}, "max_length is None"),
        ({"kind": "sequence", "vocab_size": 4, "max_length": 0}, "max_length is 0"),
        ({"kind": "sequence", "vocab_size": 4, "max_length": 4, "channels": 1}, "channels is 1"),
        ({"kind": "image_tokens", "vocab_size": 4, "image_size": 8}, "patch_size is None"),
        ({"kind": "sequence_embeddings", "max_length": 8}, "channels is None"),
    ],
)
def test_entries_that_do_not_add_up(fields, message):
    with pytest.raises(UserError, match=f"modality 'new': {message}"):
        Modality("new", **fields)


def test_ids_are_the_originals():
    # `printf rgb@224 | sha256sum` ends in d0ec.
    assert lookup("rgb@224").id == 0xD0EC % 2**15
    assert len({lookup(name).id for name in MODALITIES}) == len(MODALITIES)


def test_positions_of_a_sequence():
    rows = fixed_positions(lookup("caption"), 12)
    assert rows.shape == (SEQUENCE_ROWS, 12)
    frequencies = 10_000.0 ** -(np.arange(6) / 6)
    np.testing.assert_allclose(rows[7, :6], np.sin(7 * frequencies), atol=1e-6)
    np.testing.assert_allclose(rows[7, 6:], np.cos(7 * frequencies), atol=1e-6)


def test_positions_of_an_image_come_from_row_and_column():
    rows = fixed_positions(lookup("tok_rgb@64"), 12)
    assert rows.shape == (16, 12)
    frequencies = 10_000.0 ** -(np.arange(3) / 3)
    row, column = 2 * frequencies, 3 * frequencies
    wanted = np.concatenate([np.sin(row), np.cos(row), np.sin(column), np.cos(column)])
    np.testing.assert_allclose(rows[2 * 4 + 3], wanted, atol=1e-6)
