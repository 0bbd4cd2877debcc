"""Image tokenizers: shapes, dtypes, places, units."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from medjax.errors import UserError
from medjax.models import params


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (3, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def masks() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 3, (3, 8, 8))


@pytest.mark.parametrize(
    ("network", "quantizer", "kind", "dtype"),
    [
        ("vit", "cosine", "image", jnp.float32),
        ("conv", "fsq", "image", jnp.float32),
        ("conv", "vq", "mask", jnp.float32),
        ("vit", "fsq", "mask", jnp.bfloat16),
        ("conv", "cosine", "image", jnp.bfloat16),
    ],
)
def test_shapes_and_dtypes(
    config, build, round_trip, images, masks, network, quantizer, kind, dtype
):
    model = build(config(network, quantizer, kind), dtype=dtype)
    given = images if kind == "image" else masks
    ids, _, decoded, from_codes = round_trip(model, given)
    assert ids.shape == (3, 2, 2)
    assert ids.dtype == jnp.int32
    assert 0 <= int(ids.min()) <= int(ids.max()) < model.config.vocab_size
    assert len(np.unique(ids)) > 1
    assert decoded.shape == (3, 8, 8, 3)
    assert decoded.dtype == jnp.float32
    # What training decodes is what the ids say.
    np.testing.assert_array_equal(decoded, from_codes)


def test_compute_dtype_is_used(config, build, round_trip, images):
    full = round_trip(build(config("conv", "fsq")), images).decoded
    half = round_trip(build(config("conv", "fsq"), dtype=jnp.bfloat16), images).decoded
    difference = np.abs(np.asarray(full) - half).max()
    assert difference > 0
    stored = build(config("vit"), param_dtype=jnp.bfloat16)
    dtypes = {n: a.dtype for n, a in params.flatten(nnx.state(stored)).items()}
    assert dtypes.pop("quantizer/codes") == dtypes.pop("quantizer/counts") == jnp.float32
    assert set(dtypes.values()) == {jnp.dtype(jnp.bfloat16)}


def test_ids_lie_row_by_row_and_pixels_where_their_ids_are(config, build, round_trip, decode):
    # A convolution sees only what is near.
    model = build(config("conv", "fsq", image_size=64))
    ids = np.zeros((2, 16, 16), np.int32)
    ids[1, 6, 9] = 7
    plain, changed = decode(model, ids)
    rows, columns, _ = np.nonzero(plain - changed)
    assert abs(np.mean([rows.min(), rows.max()]) - (6 * 4 + 1.5)) <= 2
    assert abs(np.mean([columns.min(), columns.max()]) - (9 * 4 + 1.5)) <= 2
    image = np.zeros((2, 64, 64, 3), np.float32)
    image[1, 41:43, 21:23] = 20.0
    before, after = np.asarray(round_trip(model, image).latents)
    rows, columns, _ = np.nonzero(before - after)
    assert abs(np.mean([rows.min(), rows.max()]) - 10) <= 1
    assert abs(np.mean([columns.min(), columns.max()]) - 5) <= 1


def test_a_transformer_tells_places_apart(config, build, decode):
    model = build(config("vit", "vq"))
    decoded = decode(model, np.full((1, 2, 2), 5, np.int32))[0]
    corners = decoded.reshape(2, 4, 2, 4, 3).transpose(0, 2, 1, 3, 4).reshape(4, -1)
    assert len(np.unique(corners.round(4), axis=0)) == 4
    # A patch is flattened as (y, x, channel), and lies where its token is.
    flat = model.decoder.to_pixels.bias.get_value()
    model.decoder.to_pixels.bias.set_value(flat.at[(1 * 4 + 2) * 3 + 1].add(100.0))
    brighter = decode(model, np.full((1, 2, 2), 5, np.int32))[0]
    wanted = [[1, 2, 1], [1, 6, 1], [5, 2, 1], [5, 6, 1]]
    np.testing.assert_array_equal(np.argwhere(brighter - decoded > 50), wanted)


def test_images_are_normalised_on_the_way_in_and_back_on_the_way_out(
    config, build, round_trip, images
):
    mean, std = np.array((0.2, 0.4, 0.6)), np.array((0.5, 1.0, 2.0))
    ids, _, decoded, _ = round_trip(build(config()), images)
    plain = build(config(mean=(), std=()))
    raw_ids, _, raw, _ = round_trip(plain, ((images - mean) / std).astype(np.float32))
    np.testing.assert_array_equal(ids, raw_ids)
    np.testing.assert_allclose(decoded, raw * std + mean, rtol=1e-5, atol=1e-5)


def test_masks_go_in_as_one_hot(config, build, round_trip, masks):
    of_masks = build(config("vit", "vq", "mask"))
    of_images = build(config("vit", "vq", mean=(), std=()))
    one_hot = np.eye(3, dtype=np.float32)[masks]
    # Pixels of no class are of none.
    without = one_hot * np.array([1, 0, 1], np.float32)
    for given, pixels in ((masks, one_hot), (np.where(masks == 1, 255, masks), without)):
        found, wanted = round_trip(of_masks, given), round_trip(of_images, pixels)
        np.testing.assert_array_equal(found.latents, wanted.latents)
        np.testing.assert_array_equal(found.decoded, wanted.decoded)


@pytest.mark.parametrize("quantizer", ["vq", "fsq"])
@pytest.mark.parametrize("wrong", [-1, 12])
def test_ids_beyond_the_vocabulary_are_no_images(config, build, decode, quantizer, wrong):
    ids = np.zeros((2, 2, 2), np.int32)
    ids[1, 0, 1] = wrong
    decoded = decode(build(config("vit", quantizer)), ids)
    assert np.isfinite(decoded[0]).all()
    assert np.isnan(decoded[1]).all()


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("image", np.zeros((2, 8, 8, 1), np.float32), r"float32 \[2, 8, 8, 1\]; expected floats"),
        ("image", np.zeros((2, 12, 8, 3), np.float32), r"expected floats \[batch, 8, 8, 3\]"),
        ("image", np.zeros((2, 8, 8, 3), np.uint8), "image tokenizer: got uint8"),
        ("mask", np.zeros((2, 8, 8, 3), np.int32), r"expected integers \[batch, 8, 8\]"),
        ("mask", np.zeros((2, 8, 8), np.float32), "mask tokenizer: got float32"),
    ],
)
def test_other_images_are_refused(config, build, kind, given, message):
    with pytest.raises(UserError, match=message):
        build(config(kind=kind)).encode(given)


def test_the_codebook_is_no_parameter(config, build):
    model = build(config())
    assert not [name for name in params.flatten(model) if name.startswith("quantizer")]
    codebook = params.flatten(nnx.state(model, params.Carried))
    assert {name: x.shape for name, x in codebook.items()} == {
        "quantizer/codes": (11, 3), "quantizer/counts": (11,),
    }  # fmt: skip
    assert not params.flatten(nnx.state(build(config(quantizer="fsq")), params.Carried))
