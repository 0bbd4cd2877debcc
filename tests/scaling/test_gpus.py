"""Compiling for GPUs that are not there."""

import jax
import jax.numpy as jnp
import pytest

from medjax.errors import UserError
from medjax.scaling import gpus

X = jax.ShapeDtypeStruct((1024, 512), jnp.float32)


@pytest.mark.gpu_compile
@pytest.mark.parametrize("name", gpus.NAMES)
def test_memory_of_a_program(name):
    def function(x):
        # Two matmuls whose operands have to be stored.
        return jnp.tanh(x @ x.T) @ x

    memory = gpus.compile_for(name, function, X).memory_analysis()
    assert memory.argument_size_in_bytes == memory.output_size_in_bytes == 4 * X.size
    assert 4 * 1024 * 1024 <= memory.temp_size_in_bytes < 4 * 1024 * 1024 + 2**26


@pytest.mark.gpu_compile
def test_several_devices():
    found = gpus.devices("v100", 8)
    assert len(found) == 8
    assert {d.compute_capability for d in found} == {"7.0"}
    assert found[0].device_kind == "Tesla V100-SXM2-32GB"


def test_unknown_gpu():
    with pytest.raises(UserError, match="'v99' is none of a100, h100, v100"):
        gpus.devices("v99")


def test_packages_that_are_missing(monkeypatch):
    monkeypatch.setattr(gpus, "_found", lambda module: False)
    with pytest.raises(UserError, match=r"jax-cuda12-plugin.*medjax\[gpu-compile\]"):
        gpus.devices("v100")
