"""Attention's kernels compiled for GPUs that are not there, at the models' sizes."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from medjax_kernels import Tokens, attention, selection

from medjax.scaling import gpus

pytestmark = pytest.mark.gpu_compile

GPUS = ["a100", "h100"]
BATCH = 2
KERNELS = ("attention_forward", "attention_d_q", "attention_d_kv")


class Size(NamedTuple):
    """A model's attention: heads, key/value heads, head width, and what masks it."""

    heads: int
    kv_heads: int
    width: int
    fields: tuple[str, ...] = ()
    soft_cap: float | None = None
    window: int | None = None


SIGLIP = Size(16, 16, 72)
GEMMA1 = Size(8, 1, 256, ("block", "valid"))
GEMMA2_2B = Size(8, 4, 256, ("block", "valid"), 50.0, 4096)
GEMMA2_9B = Size(16, 8, 256, ("block", "valid"), 50.0, 4096)
FOURM_XL = Size(32, 32, 64, ("block", "modality", "valid"))
FOURM_XL_CROSS = Size(32, 32, 64, ("valid",))

# (size, T of each length that is compiled). 224, 448 and 896 pixels are 256, 1024, 4096 tokens.
MODELS = {
    "siglip": (SIGLIP, (256, 1024, 4096)),
    "gemma1": (GEMMA1, (512, 1024, 2048, 4096)),
    "gemma2-2b": (GEMMA2_2B, (1024, 4096)),
    "gemma2-9b": (GEMMA2_9B, (1024, 4096)),
    "4m-xl": (FOURM_XL, (128, 256, 1024)),
    "4m-xl-cross": (FOURM_XL_CROSS, (256, 1024)),
}


def tokens(size: Size, length: int) -> Tokens:
    dtypes = {"valid": jnp.bool_}
    return Tokens(
        **{
            name: jax.ShapeDtypeStruct((BATCH, length), dtypes.get(name, jnp.int32))
            for name in size.fields
        }
    )


def arguments(size: Size, length: int, others: int, dtype):
    """q, k, v, the output's gradient, and the tokens of both sides."""
    shapes = [(length, size.heads), (others, size.kv_heads), (others, size.kv_heads)]
    q, k, v = (jax.ShapeDtypeStruct((BATCH, n, h, size.width), dtype) for n, h in shapes)
    return q, k, v, q, tokens(size, length), tokens(size, others)


def attend(size, q, k, v, queries, keys):
    return attention(
        q, k, v, queries=queries, keys=keys, soft_cap=size.soft_cap, window=size.window
    )


def gradients(size, q, k, v, d_out, queries, keys):
    """Output and gradients."""
    out, pull = jax.vjp(lambda *x: attend(size, *x, queries, keys), q, k, v)
    return out, *pull(d_out)


@functools.cache
def compiled(gpu: str, size: Size, length: int, others: int, dtype=jnp.bfloat16, backward=True):
    """Temporary bytes of a program, whose kernels are asserted to be ours."""
    inputs = arguments(size, length, others, dtype)
    if backward:
        program = gpus.compile_for(gpu, functools.partial(gradients, size), *inputs)
    else:
        q, k, v, _, queries, keys = inputs
        program = gpus.compile_for(gpu, functools.partial(attend, size), q, k, v, queries, keys)
    text = program.as_text()
    assert [name for name in KERNELS if f'"{name}"' in text] == [*KERNELS[: 3 if backward else 1]]
    found = program.memory_analysis().temp_size_in_bytes
    print(
        f"{gpu}: {size.heads} heads of {size.width}, {size.kv_heads} of keys, {size.fields}, "
        f"T {length}, S {others}, {jnp.dtype(dtype).name}, "
        f"{'forward and backward' if backward else 'forward'}: {found:,} temporary bytes"
    )
    return found


def rows_kept(size: Size, length: int) -> int:
    """Bytes of two float32 numbers per query and head: log-sum-exp and delta."""
    return 2 * 4 * BATCH * size.heads * length


@pytest.mark.parametrize(("size", "lengths"), MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("gpu", GPUS)
def test_memory_of_forward_and_backward(gpu, size, lengths):
    others = 256 if size is FOURM_XL_CROSS else None
    for length in lengths:
        kept = rows_kept(size, length)
        found = compiled(gpu, size, length, others or length)
        # Beside them a few integers per token and per tile tell which tiles are computed.
        assert kept <= found <= kept + 16 * BATCH * (length + (others or length)) + 16_384
    # Four times as long takes four times as much, not sixteen.
    few, many = (compiled(gpu, size, n, others or n) for n in (lengths[-1] // 4, lengths[-1]))
    assert many <= 4.4 * few


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("size", [SIGLIP, GEMMA2_2B], ids=["siglip", "gemma2-2b"])
def test_float16_takes_little_more_than_bfloat16(gpu, size):
    more = compiled(gpu, size, 1024, 1024, jnp.float16) - compiled(gpu, size, 1024, 1024)
    # The gain of each row and key/value head, and what it is made from; XLA counts in 256 bytes.
    assert 0 < more <= 2 * 256 * math.ceil(4 * BATCH * size.kv_heads / 256)


@pytest.mark.parametrize("size", [SIGLIP, GEMMA1, GEMMA2_9B], ids=["siglip", "gemma1", "gemma2-9b"])
@pytest.mark.parametrize("gpu", GPUS)
def test_decoding(gpu, size):
    # A window needs to know where in its sequence the one query stands.
    size = size._replace(fields=("valid", "position") if size.window else ("valid",))
    found = compiled(gpu, size, 1, 4096, backward=False)
    # At most as many parts of the output as there are programs, each with 16 rows at most.
    assert found <= 256 * 16 * 4 * (size.width + 1) + 2**16


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("size", [SIGLIP, GEMMA1], ids=["siglip", "gemma1"])
def test_float32_where_it_is_asked_for(gpu, size):
    def function(q, k, v, d_out, queries, keys):
        with selection.use(attention="pallas_triton"):
            return gradients(size, q, k, v, d_out, queries, keys)

    program = gpus.compile_for(gpu, function, *arguments(size, 256, 256, jnp.float32))
    assert program.memory_analysis().temp_size_in_bytes < rows_kept(size, 256) + 2**16


@pytest.mark.parametrize(
    ("size", "axes", "summed"),
    [
        (GEMMA2_2B, ("tensor", "tensor"), False),
        (GEMMA1, ("tensor", None), True),  # its one key head is everywhere
    ],
    ids=["key heads are cut", "one key head"],
)
def test_nothing_is_gathered_on_eight_gpus(size, axes, summed):
    rows = ("data", "fsdp")
    mesh = Mesh(np.array(gpus.devices("a100", 8)).reshape(2, 2, 2), (*rows, "tensor"))

    def lay(x, axis=None):
        spec = PartitionSpec(rows, None, axis) if x.ndim == 4 else PartitionSpec(rows)
        shape = (8, *x.shape[1:])
        return jax.ShapeDtypeStruct(shape, x.dtype, sharding=NamedSharding(mesh, spec))

    q, k, v, d_out, queries, keys = arguments(size, 1024, 1024, jnp.bfloat16)
    laid = (lay(q, axes[0]), lay(k, axes[1]), lay(v, axes[1]), lay(d_out, axes[0]))
    laid = (*laid, jax.tree.map(lay, queries), jax.tree.map(lay, keys))
    with selection.assume("gpu", (8, 0)):
        lowered = jax.jit(functools.partial(gradients, size)).lower(*laid)
    program = lowered.compile(compiler_options=gpus.compiler_options())
    text = program.as_text()
    assert "all-gather" not in text
    assert ("all-reduce" in text) == summed
    # Two rows and half of the heads on each.
    found = program.memory_analysis().temp_size_in_bytes
    assert found < rows_kept(size, 1024) / 2 + 2**16
