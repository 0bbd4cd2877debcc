"""Packing agrees with apple/ml-4m: recorded masks, and what its model made of them."""

import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from medjax_kernels.attention import allowed
from medjax_kernels.masking import Part, pack

OWN = pathlib.Path(__file__).parents[1] / "reference"
ROOT = pathlib.Path(os.environ.get("MEDJAX_REFERENCE") or OWN)


def recorded_sets() -> list[pathlib.Path]:
    """The folders, at any depth, that hold a 4M model's configuration and results."""
    found = [
        pathlib.Path(folder)
        for folder, _, files in os.walk(ROOT, followlinks=True)
        if {"config.json", "io.npz"} <= set(files)
    ]
    return sorted(f for f in found if "modality_ids" in json.loads((f / "config.json").read_text()))


SETS = recorded_sets()


def test_there_are_sets():
    assert {folder.name for folder in SETS} >= {"4m_gelu", "4m_swiglu_qknorm"}


@pytest.mark.parametrize("implementation", ["reference", "xla"])
@pytest.mark.parametrize("folder", SETS, ids=lambda folder: folder.name)
def test_packing(folder, implementation):
    config = json.loads((folder / "config.json").read_text())
    with np.load(folder / "io.npz") as file:
        io = dict(file)
    names = list(config["modality_ids"])
    parts = []
    for name in names:
        tokens = io.get(f"input/{name}/tensor")
        # True is what the peer takes away. A sequence's masks are longer than an image's tokens are
        # many, and its decoder runs from left to right: one more block for each of its tokens.
        removed = {
            side: io[f"input/{name}/{side}_mask"].reshape(len(io["target_ids"]), -1)
            for side in ("input", "target")
        }
        is_sequence = removed["input"].shape[1] == config["sequence_length"]
        content = tokens is not None and tokens.ndim == 2
        parts.append(
            Part(
                "sequence" if is_sequence else "image",
                jnp.asarray(tokens, jnp.int32) if content else None,
                jnp.asarray(~removed["input"]),
                jnp.asarray(~removed["target"]),
            )
        )
    lengths = config["num_encoder_tokens"], config["num_decoder_tokens"]
    out = jax.device_get(pack(parts, *lengths, implementation=implementation))

    ids = np.append(list(config["modality_ids"].values()), -1)  # ours are indices, -1 where none
    registers = config["num_register_tokens"]  # come first, with no modality
    assert (io["encoder_modality_id"][:, :registers] == -1).all()
    np.testing.assert_array_equal(out.encoder.valid, io["encoder_valid"][:, registers:])
    np.testing.assert_array_equal(
        ids[out.encoder.modality], io["encoder_modality_id"][:, registers:]
    )
    np.testing.assert_array_equal(out.decoder.valid, io["decoder_valid"])
    np.testing.assert_array_equal(ids[out.decoder.modality], io["decoder_modality_id"])
    np.testing.assert_array_equal(out.decoder.targets, io["target_ids"])
    tokens = out.decoder.attention
    # The peer lets what is not valid attend to something; its result is thrown away.
    valid = out.decoder.valid
    np.testing.assert_array_equal(
        np.array(allowed(tokens, tokens))[valid], io["decoder_attention_allowed"][valid]
    )
    # Positions: an image's index, a sequence's rank.
    for i, part in enumerate(parts):
        for packed, kept in ((out.encoder, part.input_kept), (out.decoder, part.target_kept)):
            for row in range(len(valid)):
                found = packed.positions[row, packed.modality[row] == i]
                where = np.flatnonzero(kept[row])
                expected = where if part.kind == "image" else np.arange(len(where))
                np.testing.assert_array_equal(found, expected[: len(found)])


@pytest.mark.parametrize("implementation", ["reference", "xla"])
def test_what_does_not_fit_is_cut_off(implementation):
    """And an order of the modalities in the decoder; lengths beyond what there is are filled."""
    kept = jnp.array([[True, False, True], [False, False, False]])
    ids = jnp.arange(6, dtype=jnp.int32).reshape(2, 3) + 10
    parts = [Part("image", ids, kept, ~kept), Part("sequence", ids + 10, ~kept, kept)]
    order = jnp.array([[1, 0], [0, 1]])
    small = pack(parts, 2, 1, order=order, implementation=implementation)
    np.testing.assert_array_equal(small.encoder.tokens, [[10, 12], [23, 24]])
    np.testing.assert_array_equal(small.decoder.targets, [[22], [13]])
    np.testing.assert_array_equal(small.input_counts, [[2, 1], [0, 3]])
    large = pack(parts, 9, 8, order=order, pad=-5, implementation=implementation)
    np.testing.assert_array_equal(large.encoder.valid.sum(axis=1), [3, 3])
    np.testing.assert_array_equal(large.decoder.tokens[0], [20, *[-5] * 7])
    np.testing.assert_array_equal(large.decoder.targets[0], [22, 11, *[-5] * 6])
    np.testing.assert_array_equal(large.decoder.targets[1], [13, 14, 15, *[-5] * 5])
    np.testing.assert_array_equal(large.decoder.block[0], [0, 1, *[0] * 6])
