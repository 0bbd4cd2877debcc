"""Masking compiled for GPUs that are not there, at 4M's sizes."""

import functools

import jax
import masking_sets
import pytest
from medjax_kernels import masking

from medjax.scaling import gpus

pytestmark = pytest.mark.gpu_compile
SCHEME = masking_sets.five_modalities()


@functools.cache
def temporary_bytes(gpu: str, batch: int) -> int:
    tokens, lengths, keys = jax.eval_shape(lambda: masking_sets.samples(batch))
    data = jax.eval_shape(jax.random.key_data, keys)
    program = gpus.compile_for(
        gpu,
        lambda tokens, lengths, data: masking(
            SCHEME,
            tokens,
            lengths,
            jax.random.wrap_key_data(data),
        ),
        tokens,
        lengths,
        data,
    )
    assert ("__gpu$xla.gpu.triton" in program.as_text()) == (gpu != "v100")
    return program.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("gpu", ["v100", "a100", "h100"])
def test_memory_is_linear_in_the_batch(gpu):
    """`auto`: xla on the V100, the kernel on the others."""
    found = {batch: temporary_bytes(gpu, batch) for batch in (256, 512, 1024)}
    print(f"masking on {gpu}: temporary bytes by batch {found}")
    # Less than the 16 bytes of each token and slot that a plain program would take many times.
    assert found[256] < 256 * 716 * 16
    growth = [found[512] - found[256], (found[1024] - found[512]) / 2]
    assert 0 < growth[0] < 1.25 * found[256]
    assert abs(growth[1] - growth[0]) < 0.25 * growth[0]
