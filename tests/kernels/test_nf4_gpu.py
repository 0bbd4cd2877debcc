"""The NF4 product compiled for GPUs that are not there, at the sizes of Gemma's MLP: memory."""

import functools

import jax
import jax.numpy as jnp
import pytest
from medjax_kernels import nf4
from medjax_kernels.nf4 import xla

from medjax.scaling import gpus

pytestmark = pytest.mark.gpu_compile

MIB = 2**20
SHAPES = [(2048, 16_384), (16_384, 2048)]  # D, F
WHOLE = 2 * 2048 * 16_384  # bytes of the matrix in 16 bits: 64 MiB
ROWS = [1, 256, 1024]
TARGETS = [("v100", "xla"), ("a100", "xla"), ("a100", "pallas_triton"), ("h100", "pallas_triton")]
WAYS = ("forward", "backward")
each_target = pytest.mark.parametrize(("gpu", "implementation"), TARGETS)
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def quantized(shape) -> nf4.NF4:
    return jax.eval_shape(nf4.quantize, jax.ShapeDtypeStruct(shape, jnp.bfloat16))


@functools.cache
def programs(gpu, implementation, shape, rows, dtype=None):
    """(forward, backward), compiled; for float16 on V100, else for bfloat16."""
    dtype = dtype or ("float16" if gpu == "v100" else "bfloat16")
    x, d_out = (jax.ShapeDtypeStruct((rows, n), dtype) for n in shape)

    def forward(x, weights):
        return nf4.matmul(x, weights, implementation=implementation)

    def backward(weights, d_out):
        # The gradient does not depend on x: what x is must not count.
        return jax.vjp(lambda x: forward(x, weights), jnp.zeros(x.shape, dtype))[1](d_out)

    weights = quantized(shape)
    return (
        gpus.compile_for(gpu, forward, x, weights),
        gpus.compile_for(gpu, backward, weights, d_out),
    )


def temporary(compiled) -> int:
    return compiled.memory_analysis().temp_size_in_bytes


def total(compiled) -> int:
    memory = compiled.memory_analysis()
    return memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes


def most(implementation, shape, rows) -> float:
    """Bytes of temporaries that a product may take; linear in rows.

    xla: 4 MiB for cuBLAS, 2 MiB for a tile of the matrix, the tile's product in float32, and half a
    MiB of this and that. The fused kernel: nothing, but a constant may need a little.
    """
    if implementation == "pallas_triton":
        return 1024
    return 6.5 * MIB + 4 * rows * xla.MAX_TILE / min(shape)


@each_target
@each_shape
@pytest.mark.parametrize("rows", ROWS)
def test_temporaries(gpu, implementation, shape, rows):
    ways = zip(WAYS, programs(gpu, implementation, shape, rows), strict=True)
    for way, compiled in ways:
        print(
            f"nf4 {way} {gpu} {implementation} {shape[0]} x {shape[1]}, {rows} rows: temporaries "
            f"{temporary(compiled) / MIB:.2f} MiB, with arguments and results "
            f"{total(compiled) / MIB:.2f} MiB"
        )
        fused = implementation == "pallas_triton"
        assert (f"nf4_{way}_kernel" in compiled.as_text()) == fused
        assert temporary(compiled) <= most(implementation, shape, rows) < WHOLE / 7


@each_shape
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("gpu", ["v100", "a100"])
def test_xla_takes_little_more_than_the_kernel(gpu, shape, rows):
    both = zip(
        programs(gpu, "xla", shape, rows), programs("a100", "pallas_triton", shape, rows),
        strict=True,
    )  # fmt: skip
    for ours, fused in both:
        assert total(ours) <= 1.5 * total(fused)


@each_target
@each_shape
@pytest.mark.parametrize("rows", [4096, 32_768])
def test_memory_grows_linearly(gpu, implementation, shape, rows):
    for compiled in programs(gpu, implementation, shape, rows):
        assert temporary(compiled) <= most(implementation, shape, rows)


@pytest.mark.parametrize("shape", [(4304, 1152), (1152, 4304), (71, 33)], ids=str)
@pytest.mark.parametrize("rows", [3, 1000])
@each_target
def test_shapes_that_no_block_divides(gpu, implementation, shape, rows):
    """SigLIP's MLP, and odd ones."""
    for compiled in programs(gpu, implementation, shape, rows):
        assert temporary(compiled) < 16 * MIB


@pytest.mark.parametrize("gpu", ["a100", "h100"])
def test_float32_compiles_too(gpu):
    for rows in (1, 1024):
        for compiled in programs(gpu, "pallas_triton", SHAPES[0], rows, "float32"):
            assert temporary(compiled) <= 1024


@pytest.mark.parametrize("gpu", gpus.NAMES)
@each_shape
def test_dequantize_is_one_pass(gpu, shape):
    dequantize = functools.partial(nf4.dequantize, dtype="float16")
    compiled = gpus.compile_for(gpu, dequantize, quantized(shape))
    assert compiled.memory_analysis().output_size_in_bytes == WHOLE
    assert temporary(compiled) <= 4 * MIB  # the blocks' largest values, in float32


def test_v100_has_no_kernel():
    with pytest.raises(ValueError, match=r"compute capability 7\.0; xla or reference or auto"):
        programs("v100", "pallas_triton", SHAPES[0], 1)
