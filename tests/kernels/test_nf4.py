"""Every implementation of the NF4 product against NumPy float64, gradients included."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from medjax_kernels import nf4, selection
from medjax_kernels.nf4 import blocks, pallas_triton, xla
from medjax_kernels.nf4.codebook import DYNAMIC, LEVELS
from medjax_kernels.nf4.product import product


def small_tiles(x, weights):
    """xla with tiles that do not divide the matrix: three outputs; ten inputs, or two blocks."""
    width, outputs = weights.shape
    forward = functools.partial(xla.matmul, max_tile=3 * (width + width % 2))
    inputs = 10 if width % 64 else 128
    backward = functools.partial(xla.matmul_transposed, max_tile=inputs * outputs)
    return product(x, weights, forward, backward)


def small_blocks(x, weights):
    """pallas_triton with the least tiles that tensor cores take."""
    least = blocks.Blocks(rows=16, outputs=16, warps=1, stages=1)
    forward = functools.partial(pallas_triton.matmul, tiles=least)
    backward = functools.partial(pallas_triton.matmul_transposed, tiles=least)
    return product(x, weights, forward, backward)


IMPLEMENTATIONS = {
    "reference": functools.partial(nf4.matmul, implementation="reference"),
    "xla": functools.partial(nf4.matmul, implementation="xla"),
    "xla-small-tiles": small_tiles,
    "pallas_triton": functools.partial(nf4.matmul, implementation="pallas_triton"),
    "pallas_triton-small-blocks": small_blocks,
}
every_implementation = pytest.mark.parametrize(
    "matmul", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS.keys()
)

SHAPES = [  # M, D, F
    (1, 1, 1),
    (3, 23, 5),  # an odd D, in whose tiles blocks begin anywhere
    (18, 72, 33),  # blocks that belong to two outputs
    (5, 192, 20),  # whole blocks
]


def draw(seed, *shape, dtype="float32", scale=1.0):
    values = scale * np.random.default_rng(seed).standard_normal(shape)
    return values.astype(jnp.dtype(dtype))


def numpy_weights(weights: nf4.NF4) -> np.ndarray:
    """[D, F] in float64, one weight after the other."""
    width, outputs = weights.shape
    codes, absmax, scales = (
        np.asarray(x) for x in (weights.codes, weights.absmax.reshape(-1), weights.scales)
    )
    matrix = np.zeros((width, outputs))
    for d, f in np.ndindex(width, outputs):
        code = codes[f, d // 2] & 15 if d % 2 else codes[f, d // 2] >> 4
        block = (f * width + d) // 64
        largest = float(DYNAMIC[absmax[block]]) * scales[block // 256] + float(weights.offset)
        matrix[d, f] = float(LEVELS[code]) * largest
    return matrix


def run(matmul, x, weights, d_out):
    """The product and x's gradient, compiled."""

    def function(x, weights, d_out):
        out, pull = jax.vjp(lambda x: matmul(x, weights), x)
        return out, *pull(d_out)

    return jax.jit(function)(x, weights, d_out)


@every_implementation
class TestEveryImplementation:
    @settings(max_examples=3, deadline=None, derandomize=True)
    @given(shape=st.sampled_from(SHAPES), seed=st.integers(0, 3))
    @example(shape=(3, 23, 5), seed=0)
    @example(shape=(5, 192, 20), seed=0)
    def test_product_and_gradient(self, matmul, shape, seed):
        rows, width, outputs = shape
        weights = nf4.quantize(draw(seed, width, outputs, scale=0.02))
        x, d_out = draw(seed + 1, rows, width), draw(seed + 2, rows, outputs)
        matrix = numpy_weights(weights)
        wanted = x @ matrix, d_out @ matrix.T
        chex.assert_trees_all_close(run(matmul, x, weights, d_out), wanted, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
    @pytest.mark.parametrize("shape", [(23, 5), (72, 48), (128, 136)], ids=str)
    def test_the_matrix_is_what_dequantize_gives(self, matmul, shape, dtype):
        """The product with the identity is the matrix, forward and backward, to the last bit."""
        weights = nf4.quantize(draw(0, *shape, scale=0.02))
        wanted = nf4.dequantize(weights, dtype)
        width, outputs = shape
        x, d_out = (jnp.eye(max(shape), n, dtype=dtype) for n in shape)
        out, d_x = run(matmul, x, weights, d_out)
        np.testing.assert_array_equal(out[:width], wanted)
        np.testing.assert_array_equal(d_x[:outputs], wanted.T)

    # Both sides see the weights rounded to dtype, and sum in float32 or more: what differs is the
    # rounding of results up to 2, by half a unit in the last of 8 or 11 bits.
    @pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 2**-8), ("float16", 2**-11)])
    def test_dtypes(self, matmul, dtype, tolerance):
        rows, width, outputs = 5, 192, 20
        weights = nf4.quantize(draw(0, width, outputs, scale=0.02))
        x, d_out = draw(1, rows, width, dtype=dtype), draw(2, rows, outputs, dtype=dtype)
        found = run(matmul, x, weights, d_out)
        chex.assert_trees_all_equal_dtypes(found, (x, d_out))
        matrix = numpy_weights(weights).astype(jnp.dtype(dtype)).astype(np.float64)
        wanted = x.astype(np.float64) @ matrix, d_out.astype(np.float64) @ matrix.T
        assert max(np.abs(w).max() for w in wanted) < 2
        found = jax.tree.map(lambda a: np.asarray(a, np.float64), found)
        chex.assert_trees_all_close(found, wanted, rtol=0, atol=tolerance)

    def test_sums_are_float32(self, matmul):
        """In float16, 64 x 2000 would be infinite, and a sum that comes back to zero NaN."""
        x = jnp.where(jnp.arange(128) < 64, 2000.0, -2000.0).astype(jnp.float16)[None]
        weights = nf4.quantize(jnp.ones((128, 128)))
        out, d_x = run(matmul, x, weights, x)
        np.testing.assert_array_equal(out, 0)
        np.testing.assert_array_equal(d_x, 0)
        # XLA's dots on CPUs add up in float32 whatever they are asked for.
        program = str(jax.make_jaxpr(functools.partial(run, matmul))(x, weights, x))
        assert program.count("preferred_element_type=float32") == program.count("dot_general[") == 2

    def test_weights_have_no_gradient(self, matmul):
        weights = nf4.quantize(draw(0, 72, 33))
        x = draw(1, 3, 72)

        def loss(x, weights):
            return jnp.sum(matmul(x, weights) ** 2)

        d_x, d_weights = jax.grad(loss, argnums=(0, 1), allow_int=True)(x, weights)
        assert np.abs(d_x).max() > 0.1
        assert d_weights.codes.dtype == d_weights.absmax.dtype == jax.dtypes.float0
        np.testing.assert_array_equal(d_weights.scales, 0)
        np.testing.assert_array_equal(d_weights.offset, 0)


@pytest.mark.parametrize("implementation", nf4.SUPPORT)
class TestMatmul:
    def test_leading_axes(self, implementation):
        weights = nf4.quantize(draw(0, 64, 7))
        x = draw(1, 2, 3, 64)
        for part in (x, x[0, 0]):
            out = nf4.matmul(part, weights, implementation=implementation)
            assert out.shape == (*part.shape[:-1], 7)
            np.testing.assert_allclose(out, part @ numpy_weights(weights), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(("rows", "width", "outputs"), [(0, 64, 7), (2, 0, 7), (2, 70, 0)])
    def test_nothing(self, implementation, rows, width, outputs):
        weights = nf4.quantize(jnp.zeros((width, outputs)))
        assert weights.shape == (width, outputs)
        matmul = functools.partial(nf4.matmul, implementation=implementation)
        x, d_out = jnp.ones((rows, width)), jnp.ones((rows, outputs))
        out, d_x = run(matmul, x, weights, d_out)
        np.testing.assert_array_equal(out, np.zeros((rows, outputs)))
        np.testing.assert_array_equal(d_x, np.zeros((rows, width)))

    def test_a_stack_is_scanned(self, implementation):
        stack = nf4.quantize(draw(0, 2, 72, 72))
        assert stack.shape == (2, 72, 72)
        x = draw(1, 3, 72)

        def layer(x, weights):
            return nf4.matmul(x, weights, implementation=implementation), None

        found = jax.jit(lambda x, stack: jax.lax.scan(layer, x, stack)[0])(x, stack)
        first, second = (numpy_weights(jax.tree.map(lambda a, i=i: a[i], stack)) for i in range(2))
        np.testing.assert_allclose(found, x @ first @ second, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("implementation", "holds_all"), [("reference", True), ("xla", False)])
def test_only_the_reference_holds_the_matrix(implementation, holds_all):
    width, outputs, rows = 4096, 2048, 16
    weights = jax.eval_shape(nf4.quantize, jax.ShapeDtypeStruct((width, outputs), "float32"))
    x, d_out = (jax.ShapeDtypeStruct((rows, n), "float32") for n in (width, outputs))

    def forward(x, weights):
        return nf4.matmul(x, weights, implementation=implementation)

    def backward(x, weights, d_out):
        return jax.vjp(lambda x: forward(x, weights), x)[1](d_out)

    for function, arguments in ((forward, (x, weights)), (backward, (x, weights, d_out))):
        memory = jax.jit(function).lower(*arguments).compile().memory_analysis()
        assert (memory.temp_size_in_bytes >= 4 * width * outputs) == holds_all
        if not holds_all:
            # A tile; no more than a tenth beside it.
            assert memory.temp_size_in_bytes < 1.1 * 4 * xla.MAX_TILE


BAD = {
    "width": ((3, 63), "float32", r"expected floats \[..., 64\], got float32 \(3, 63\)"),
    "no axes": ((), "float32", "expected floats"),
    "integers": ((3, 64), "int32", "got int32"),
}


@pytest.mark.parametrize(("shape", "dtype", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input(shape, dtype, message):
    with pytest.raises(ValueError, match=message):
        nf4.matmul(jnp.zeros(shape, dtype), nf4.quantize(jnp.ones((64, 2))))


def test_a_stack_is_no_matrix():
    with pytest.raises(ValueError, match=r"a stack \(2, 64, 3\): scan over it"):
        nf4.matmul(jnp.zeros((1, 64)), nf4.quantize(jnp.ones((2, 64, 3))))


AUTO = [
    (("cpu",), "float32", 2048, "xla"),
    (("cpu",), "bfloat16", 2048, "xla"),
    (("tpu",), "bfloat16", 2048, "xla"),
    (("gpu",), "float16", 2048, "xla"),
    (("gpu", (7, 0)), "float16", 2048, "xla"),
    (("gpu", (7, 5)), "bfloat16", 64, "xla"),
    (("gpu", (8, 0)), "bfloat16", 2048, "pallas_triton"),
    (("gpu", (8, 0)), "float32", 2048, "xla"),
    (("gpu", (8, 6)), "float16", 1, "pallas_triton"),
    (("gpu", (9, 0)), "bfloat16", 16_384, "pallas_triton"),
    (("gpu", (9, 0)), "float16", 4304, "pallas_triton"),
]


@pytest.mark.parametrize(("device", "dtype", "width", "chosen"), AUTO)
def test_auto(device, dtype, width, chosen):
    with selection.assume(*device):
        found = selection.choose("nf4", "auto", nf4.SUPPORT, dtype=jnp.dtype(dtype), width=width)
    assert found == chosen


@pytest.mark.parametrize(
    ("device", "options", "message"),
    [
        (("gpu", (7, 0)), {}, r"8\.0 and up.*capability 7\.0; xla or reference or auto"),
        (("tpu",), {}, r"8\.0 and up, and this is a tpu; xla or reference or auto"),
        (("cpu",), dict(dtype="float8_e4m3fn"), "not in float8_e4m3fn; no other"),
        (("cpu",), dict(implementation="fused"), "'fused' is none of auto, pallas_triton, xla"),
    ],
)
def test_explicit_choice_that_cannot_run(device, options, message):
    options = dict(dtype="float16", implementation="pallas_triton") | options
    weights = nf4.quantize(jnp.ones((64, 2)))
    x = jnp.zeros((1, 64), options.pop("dtype"))
    with selection.assume(*device), pytest.raises(ValueError, match=message):
        nf4.matmul(x, weights, **options)


def test_blocks_are_chosen_by_gpu_and_rows():
    for pick in (blocks.forward, blocks.backward):
        found = [pick((8, 0), rows, 2).rows for rows in (1, 16, 17, 64, 65, 10**6)]
        assert found == [16, 16, 64, 64, 128, 128]
        assert pick((8, 0), 10**6, 4).rows == 64  # float32
        ampere, hopper = pick((8, 0), 10**6, 2), pick((9, 0), 10**6, 2)
        assert pick((8, 9), 10**6, 2) == pick(None, 10**6, 2) == ampere
        assert pick((12, 0), 10**6, 2) == hopper != ampere
