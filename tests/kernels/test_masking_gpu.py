"""Masking compiled for GPUs that are not there, at 4M's sizes."""

import jax
import masking_sets
import pytest
from medjax_kernels import masking

from medjax.scaling import gpus

pytestmark = pytest.mark.gpu_compile


def temporary_bytes(gpu: str, batch: int) -> int:
    tokens, lengths, keys = jax.eval_shape(lambda: masking_sets.samples(batch))
    data = jax.eval_shape(jax.random.key_data, keys)
    program = gpus.compile_for(
        gpu,
        lambda tokens, lengths, data: masking(
            masking_sets.five_modalities(), tokens, lengths, jax.random.wrap_key_data(data)
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
    found = {batch: temporary_bytes(gpu, batch) for batch in (256, 1024)}
    print(f"masking on {gpu}: temporary bytes by batch {found}")
    # Draws, masks and packed indices: less than 16 bytes for each of the 716 tokens of a sample.
    assert found[256] < 256 * 716 * 16
    # Four times the batch: quadratic growth would be sixteenfold. XLA fuses them in other ways.
    assert found[256] < found[1024] < 5 * found[256]
