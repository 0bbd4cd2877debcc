"""Which dtype "auto" is, by device."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from medjax.errors import UserError
from medjax.scaling import precision


def device(platform, capability=None):
    if capability is None:
        return SimpleNamespace(platform=platform)
    return SimpleNamespace(platform=platform, compute_capability=capability)


@pytest.mark.parametrize(
    ("device", "dtype"),
    [
        (device("cpu"), jnp.float32),
        (device("gpu", "7.0"), jnp.float16),  # V100
        (device("gpu", "7.5"), jnp.float16),  # T4
        (device("gpu", "8.0"), jnp.bfloat16),  # A100
        (device("gpu", "9.0"), jnp.bfloat16),  # H100
        (device("gpu", "10.0"), jnp.bfloat16),  # B200
        (device("gpu", "12.0"), jnp.bfloat16),
        (device("tpu"), jnp.bfloat16),
    ],
    ids=str,
)
def test_auto(device, dtype):
    assert precision.resolve("auto", device) == dtype


def test_auto_asks_the_first_device():
    assert precision.resolve("auto") == precision.resolve("auto", jax.devices()[0])


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_names_are_taken_at_their_word(name):
    found = precision.resolve(name, device("gpu", "7.0"))
    assert found == jnp.dtype(name)
    assert isinstance(found, jnp.dtype)


@pytest.mark.parametrize("name", ["fp16", "", "float64", "int8"])
def test_unknown(name):
    with pytest.raises(UserError, match=f"dtype '{name}' is none of auto, float32"):
        precision.resolve(name)
