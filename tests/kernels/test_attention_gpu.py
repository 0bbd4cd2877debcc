"""The implementation for XLA compiled for a V100 that is not there: what memory it takes."""

import functools
import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_sizes import DECODING, SERIES, SIZES
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from medjax_kernels import selection
from medjax_kernels.attention import xla_tiles

from medjax.scaling import gpus

pytestmark = pytest.mark.gpu_compile

WORKSPACE = 4 * 2**20  # cuBLAS's, the same for every program with a matmul
# float16 is what a V100 computes in.
CASES = [(name, jnp.float16) for name in SIZES]
CASES += [(name, jnp.float32) for name in ("siglip-8x1024", "gemma-2048", "gemma2-9b-1024")]


@functools.cache
def memory(size, dtype, *, gradient):
    """Bytes of arguments with results, and of temporaries without cuBLAS's workspace."""
    q, k, v, d_out, *tokens = size.arguments(dtype)
    arguments = (q, k, v, d_out, *tokens) if gradient else (q, k, v, *tokens)
    function = (size.gradient if gradient else size.forward)("xla")
    found = gpus.compile_for("v100", function, *arguments).memory_analysis()
    outside = found.argument_size_in_bytes + found.output_size_in_bytes
    print(
        f"v100 xla {jnp.dtype(dtype).name} {'gradient' if gradient else 'forward'} {size}: "
        f"{found.temp_size_in_bytes / 2**20:.2f} MiB of temporaries, "
        f"{outside / 2**20:.2f} MiB of arguments and results"
    )
    return outside, max(0, found.temp_size_in_bytes - WORKSPACE)


@pytest.mark.parametrize(("name", "dtype"), CASES)
@pytest.mark.parametrize("gradient", [False, True], ids=["forward", "gradient"])
def test_memory_is_within_half_more_than_a_fused_kernels(name, dtype, gradient):
    size = SIZES[name]
    outside, temporary = memory(size, dtype, gradient=gradient)
    fused = outside + (size.fused_bytes() if gradient else size.fused_bytes() // 2)
    # Where that is next to nothing, a tile may be large enough for its matmuls.
    assert temporary < xla_tiles.MAX_BYTES or outside + temporary <= 1.5 * fused


@pytest.mark.parametrize("sizes", SERIES.values(), ids=SERIES.keys())
def test_memory_grows_with_the_length_and_not_its_square(sizes):
    found = [memory(size, jnp.float16, gradient=True)[1] for size in sizes]
    assert found[-1] <= found[0] * sizes[-1].length / sizes[0].length
    for short, long in itertools.pairwise(found):
        assert long <= 2.4 * short  # not 2, since tiles grow in steps


def test_of_shared_heads_the_smaller_side_is_summed_whole():
    """float32 sums of the queries' gradients alone would be two of nine parts of all arrays."""
    outside, temporary = memory(SERIES["gemma"][-1], jnp.float16, gradient=True)
    assert temporary < 2 / 9 * outside


@pytest.mark.parametrize("size", DECODING.values(), ids=DECODING.keys())
def test_decoding_copies_no_cache(size):
    """Only a tile of it, whatever the cache's length; a row of tokens may have longer tiles."""
    _, short = memory(size, jnp.float16, gradient=False)
    _, long = memory(size._replace(keys_length=4 * size.keys_length), jnp.float16, gradient=False)
    cache = 2 * math.prod(size.arguments()[1].shape)
    assert short <= cache / 2
    assert long - short <= cache / 4  # the two caches have grown by six times as much as one


@pytest.mark.parametrize("kv_heads", [1, 8], ids=["multi-query", "grouped"])
@pytest.mark.parametrize("shape", [(8, 1), (2, 4)], ids=["data", "data-and-tensor"])
def test_batch_and_heads_stay_where_they_are(shape, kv_heads):
    """Devices tell each other the tiles that they need, and sums for heads that they share."""
    size = SIZES["gemma-1024"]._replace(batch=8, heads=16, kv_heads=kv_heads)
    mesh = Mesh(np.array(gpus.devices("v100", 8)).reshape(shape), ("data", "tensor"))

    def placed(x):
        heads = x.ndim == 4 and x.shape[2] % shape[1] == 0
        spec = PartitionSpec("data", None, "tensor") if heads else PartitionSpec("data")
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))

    arguments = jax.tree.map(placed, size.arguments())
    with selection.assume("gpu", (7, 0)):
        lowered = jax.jit(size.gradient("xla")).lower(*arguments)
        program = lowered.compile(compiler_options=gpus.compiler_options()).as_text()
    assert not re.findall(r"(?:all-gather|all-to-all|collective-permute)(?:-start)?\(", program)
    reduced = re.findall(r" = (.*) all-reduce(?:-start)?\(", program)
    floats = [shape for shape in reduced if "f16[" in shape or "f32[" in shape]
    assert len(reduced) > len(floats)
    assert bool(floats) == (kv_heads < shape[1])
