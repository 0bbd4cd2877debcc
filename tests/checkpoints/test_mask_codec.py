"""Files of the mask codec that are not what they should be."""

import json
import pathlib

import numpy as np
import pytest

from medjax.checkpoints import mask_codec
from medjax.errors import UserError
from medjax.models.params import flatten

SHAPES = pathlib.Path(__file__).parents[1] / "reference" / "segmentation_codec" / "shapes.json"


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    shapes = json.loads(SHAPES.read_text())
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def test_every_name_is_read(arrays, tmp_path):
    assert set(mask_codec.NAMES.values()) == set(arrays)
    np.savez(tmp_path / "vae.npz", **arrays)
    assert set(flatten(mask_codec.open_npz(tmp_path / "vae.npz"))) == set(mask_codec.NAMES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder.6.weight": None}, "1 parameters are missing, among them up/1/kernel"),
        ({"decoder.14.bias": np.zeros(1)}, "parameter decoder.14.bias comes unexpectedly"),
        ({"encoder.0.bias": np.zeros(3)}, r"down/0/bias has shape \(3,\), the model has \(16,\)"),
    ],
)
def test_arrays_that_do_not_fit(arrays, change, message, tmp_path):
    arrays = {name: array for name, array in (arrays | change).items() if array is not None}
    np.savez(tmp_path / "vae.npz", **arrays)
    with pytest.raises(UserError, match=f"vae.npz: {message}"):
        mask_codec.open_npz(tmp_path / "vae.npz")


def test_no_npz_file(tmp_path):
    for content in (None, b"", b"no archive"):
        if content is not None:
            (tmp_path / "vae.npz").write_bytes(content)
        with pytest.raises(UserError, match=r"vae\.npz cannot be read as the mask codec's"):
            mask_codec.open_npz(tmp_path / "vae.npz")
