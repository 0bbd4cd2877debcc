"""The cross entropy compiled for GPUs that are not there, at the models' sizes: what it takes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from medjax_kernels import cross_entropy, selection

from medjax.scaling import gpus

pytestmark = pytest.mark.gpu_compile

V = 257_216  # PaliGemma's vocabulary
WIDTHS = [2048, 2304, 3584]  # Gemma 2B, Gemma 2 2B and 9B
TRAINED = {"hidden": (0,), "hidden-and-table": (0, 1)}
trained_ones = pytest.mark.parametrize("trained", TRAINED.values(), ids=TRAINED.keys())


def arguments(tokens, width, dtype, table_dtype=None):
    return (
        jax.ShapeDtypeStruct((tokens, width), dtype),
        jax.ShapeDtypeStruct((V, width), table_dtype or dtype),
        jax.ShapeDtypeStruct((tokens,), jnp.int32),
        jax.ShapeDtypeStruct((tokens,), jnp.float32),
    )


def loss(hidden, table, targets, weights, **options):
    return cross_entropy(hidden, table, targets, weights, **options).loss.sum()


@functools.cache
def compiled(gpu, implementation, tokens, width, dtype, table_dtype=None, trained=(0,), **options):
    """The memory that the loss and its gradient take, or without `trained` the scores alone."""
    function = functools.partial(loss, implementation=implementation, **options)
    if trained:
        function = jax.value_and_grad(function, argnums=trained)
    program = gpus.compile_for(gpu, function, *arguments(tokens, width, dtype, table_dtype))
    memory = program.memory_analysis()
    print(
        f"{gpu} {implementation}: {tokens} tokens, width {width}, {jnp.dtype(dtype).name}, "
        f"gradients of {trained or 'nothing'}: {memory.temp_size_in_bytes / 2**20:.1f} MiB"
    )
    kernels = {name for name in KERNELS if f'name = "{name}"' in program.as_text()}
    return memory, kernels


KERNELS = {"_scores", "_pull", "_d_logits", "_d_table"}


def total(memory):
    return memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes


@trained_ones
@pytest.mark.parametrize("table", [jnp.float16, jnp.float32], ids=["float16", "float32"])
def test_a_twentieth_of_all_logits(trained, table):
    sizes = (1024, 2048, jnp.float16, table, trained)
    naive, _ = compiled("v100", "reference", *sizes)
    found, _ = compiled("v100", "xla", *sizes)
    assert naive.temp_size_in_bytes > 4 * 1024 * V
    assert found.temp_size_in_bytes <= 0.05 * naive.temp_size_in_bytes


@pytest.mark.parametrize("width", WIDTHS)
def test_v100_is_linear_in_tokens(width):
    few, many = (
        compiled("v100", "xla", tokens, width, jnp.float16, None, (0, 1))[0]
        for tokens in (1024, 4096)
    )
    assert_linear(few, many, width)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("gpu", ["a100", "h100"])
def test_kernels(gpu, width):
    (few, kernels), (many, _) = (
        compiled(gpu, "pallas_triton", tokens, width, jnp.bfloat16, None, (0, 1))
        for tokens in (1024, 4096)
    )
    assert kernels == KERNELS
    assert few.temp_size_in_bytes <= 2**27
    assert_linear(few, many, width)


def assert_linear(few, many, width):
    # The logits' memory is bounded; what grows are some float32 arrays like the hidden states.
    grown = many.temp_size_in_bytes - few.temp_size_in_bytes
    assert grown <= 5 * 4 * (4096 - 1024) * width


@pytest.mark.parametrize("tokens", [1024, 4096])
@pytest.mark.parametrize("width", WIDTHS)
def test_xla_takes_no_more_than_half_as_much_again(width, tokens):
    xla, fused = (
        compiled("a100", implementation, tokens, width, jnp.bfloat16, None, (0, 1))[0]
        for implementation in ("xla", "pallas_triton")
    )
    assert total(xla) <= 1.5 * total(fused)
    assert xla.temp_size_in_bytes <= 1.5 * fused.temp_size_in_bytes


@pytest.mark.parametrize("gpu", ["a100", "h100"])
@pytest.mark.parametrize(
    ("dtype", "table", "options"),
    [
        (jnp.float16, jnp.float32, {}),
        (jnp.bfloat16, jnp.bfloat16, dict(soft_cap=30.0)),
        (jnp.float16, jnp.float16, dict(soft_cap=30.0, label_smoothing=0.1)),
        (jnp.float32, jnp.float32, dict(label_smoothing=0.1)),
    ],
    ids=["float32 table", "soft cap", "soft cap and smoothing", "float32"],
)
def test_kernels_of_all_kinds(gpu, dtype, table, options):
    memory, kernels = compiled(gpu, "pallas_triton", 1000, 2304, dtype, table, (0, 1), **options)
    assert kernels == KERNELS
    assert memory.temp_size_in_bytes <= 2**27


@pytest.mark.parametrize("gpu", ["a100", "h100"])
def test_scores_alone_hold_no_tile_of_logits(gpu):
    memory, kernels = compiled(gpu, "pallas_triton", 1024, 2048, jnp.bfloat16, None, ())
    assert kernels == {"_scores"}
    assert memory.temp_size_in_bytes <= 2**24


@pytest.mark.parametrize(("gpu", "chosen"), [("v100", set()), ("a100", {"_scores", "_pull"})])
def test_auto(gpu, chosen):
    assert compiled(gpu, "auto", 1024, 2048, jnp.float16)[1] == chosen


@trained_ones
@pytest.mark.parametrize(("gpu", "implementation"), [("v100", "xla"), ("a100", "pallas_triton")])
def test_a_table_that_is_cut_is_never_whole(gpu, implementation, trained):
    devices = gpus.devices(gpu, 8)
    mesh = Mesh(np.array(devices).reshape(1, 8, 1), ("data", "fsdp", "tensor"),
                axis_types=(AxisType.Auto,) * 3)  # fmt: skip
    rows = PartitionSpec(("data", "fsdp"))
    specs = (rows, PartitionSpec("tensor", "fsdp"), rows, rows)
    abstract = [
        jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))
        for x, spec in zip(arguments(8 * 1024, 2048, jnp.float16), specs, strict=True)
    ]
    function = functools.partial(loss, implementation=implementation)
    major, minor = map(int, devices[0].compute_capability.split("."))
    with selection.assume("gpu", (major, minor)):
        lowered = jax.jit(jax.value_and_grad(function, argnums=trained)).lower(*abstract)
    memory = lowered.compile(compiler_options=gpus.compiler_options()).memory_analysis()
    print(f"{gpu} {implementation}, 8 x 1024 tokens: {memory.temp_size_in_bytes / 2**20:.1f} MiB")
    assert memory.temp_size_in_bytes < 2 * V * 2048 / 3
