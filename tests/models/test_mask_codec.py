"""The mask codec's shapes, ids and places."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from medjax.models.mask_codec import MaskCodec


@pytest.fixture(scope="module")
def codec() -> MaskCodec:
    return MaskCodec(rngs=nnx.Rngs(0))


def test_codes_are_ids_of_the_codebook(codec):
    masks = np.random.default_rng(0).uniform(size=(3, 64, 64)).astype(np.float32)
    codes = codec.encode(masks)
    assert codes.shape == (3, 16)
    assert codes.dtype == jnp.int32
    assert 0 <= int(codes.min()) <= int(codes.max()) < 128
    decoded = codec.decode(codes)
    assert decoded.shape == (3, 64, 64)
    assert decoded.dtype == jnp.float32


def test_a_code_is_the_nearest_in_the_codebook(codec):
    x = np.random.default_rng(1).standard_normal((16, 512)).astype(np.float32)
    codec = nnx.clone(codec)
    for name, value in (("kernel", jnp.zeros((1, 1, 128, 512))), ("bias", jnp.asarray(x[3]))):
        getattr(codec.to_code, name).set_value(value)
    distances = ((x[3] - np.asarray(codec.codebook.get_value())) ** 2).sum(axis=1)
    codes = codec.encode(np.zeros((1, 64, 64), np.float32))
    np.testing.assert_array_equal(codes, np.full((1, 16), distances.argmin()))


def test_codes_lie_row_by_row(codec):
    codes = np.zeros((2, 16), np.int32)
    codes[1, 12] = 7  # last row, first column
    plain, changed = np.asarray(codec.decode(codes))
    quarters = abs(plain - changed).reshape(2, 32, 2, 32).sum(axis=(1, 3))
    assert quarters[1, 0] == quarters.max()
    assert quarters[0, 1] == quarters.min()
