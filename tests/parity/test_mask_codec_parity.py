"""The mask codec agrees with google-research/big_vision, on every recorded set of it.

Sets are discovered anywhere under the folder that MEDJAX_REFERENCE names. Their weights are a
recipe: normal numbers in the order of the names, of which shapes.json has the shapes.
"""

import json
import os
import pathlib

import agreement
import jax
import numpy as np
import pytest

from medjax.checkpoints import mask_codec


def recorded_sets(root: pathlib.Path = agreement.REFERENCE) -> list[pathlib.Path]:
    return sorted(
        pathlib.Path(folder)
        for folder, _, files in os.walk(root, followlinks=True)
        if set(files) >= {"shapes.json", "io.npz"}
    )


def weights(folder: pathlib.Path) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = json.loads((folder / "shapes.json").read_text())
    arrays = {}
    for name in sorted(shapes):
        shape = shapes[name]
        scale = 1.4 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.05
        arrays[name] = (rng.standard_normal(shape) * scale).astype(np.float32)
    return arrays


@pytest.fixture(scope="module", params=recorded_sets(), ids=agreement.label)
def codec_and_io(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("codec") / "vae-oid.npz"
    np.savez(path, **weights(request.param))
    with np.load(request.param / "io.npz") as io:
        return mask_codec.open_npz(path), dict(io)


def test_there_are_sets():
    assert recorded_sets(), f"no set of a mask codec under {agreement.REFERENCE}"


def test_decoded_masks(codec_and_io):
    codec, io = codec_and_io
    with jax.default_matmul_precision("highest"):
        found = codec.decode(io["codebook_indices"])
    assert found.shape == io["decoded_masks"].shape
    assert np.ptp(io["decoded_masks"]) > 0.1
    # Sums of float32 in another order, of numbers below 1.
    np.testing.assert_allclose(found, io["decoded_masks"], rtol=0, atol=1e-5)


def test_encoded_indices(codec_and_io):
    codec, io = codec_and_io
    with jax.default_matmul_precision("highest"):
        found = codec.encode(io["input_masks"])
    assert len(np.unique(io["encoded_indices"])) > 10
    np.testing.assert_array_equal(found, io["encoded_indices"])
