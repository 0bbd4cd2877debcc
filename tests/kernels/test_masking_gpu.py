"""Masking compiled for GPUs that are not there, at 4M's sizes."""

import functools

import jax
import masking_sets
import pytest
from medjax_kernels import masking

from medjax.scaling import gpus

pytestmark = pytest.mark.gpu_compile


@functools.cache
def temporary_bytes(gpu: str, batch: int, implementation: str) -> int:
    tokens, lengths, keys = jax.eval_shape(lambda: masking_sets.samples(batch))

    def run(tokens, lengths, data):
        keys = jax.random.wrap_key_data(data)
        scheme = masking_sets.five_modalities()
        return masking(scheme, tokens, lengths, keys, implementation=implementation)

    data = jax.eval_shape(jax.random.key_data, keys)
    program = gpus.compile_for(gpu, run, tokens, lengths, data)
    kernel = gpu != "v100" and implementation == "auto"
    assert ("__gpu$xla.gpu.triton" in program.as_text()) == kernel
    return program.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("gpu", ["v100", "a100", "h100"])
def test_memory_is_linear_in_the_batch(gpu):
    """`auto`: xla on the V100, the kernel on the others."""
    found = {batch: temporary_bytes(gpu, batch, "auto") for batch in (256, 1024)}
    print(f"masking on {gpu}: temporary bytes by batch {found}")
    # Draws, masks and packed indices: less than 8 bytes for each of the 716 tokens of a sample.
    assert found[256] < 256 * 716 * 8
    # Four times the batch: quadratic growth would be sixteenfold. XLA fuses them in other ways.
    assert found[256] < found[1024] < 5 * found[256]


def test_xla_takes_little_more_than_the_kernel():
    xla, kernel = (temporary_bytes("a100", 256, name) for name in ("xla", "auto"))
    print(f"masking of 256 samples on a100: temporary bytes of xla {xla}, of the kernel {kernel}")
    assert xla < 1.5 * kernel
