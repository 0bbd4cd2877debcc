"""NF4 itself: the codes, bit by bit as bitsandbytes has them, and where they may live."""

import functools
import os
import pathlib
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from medjax_kernels import nf4
from medjax_kernels.nf4.codebook import DYNAMIC, LEVELS
from scipy.stats import norm

RECORDED = sorted((pathlib.Path(__file__).parents[1] / "reference" / "nf4").glob("*.npz"))
DTYPES = ["float32", "float16", "bfloat16"]


def draw(seed, *shape, dtype="float32", scale=1.0):
    values = scale * np.random.default_rng(seed).standard_normal(shape)
    return values.astype(jnp.dtype(dtype))


class Record:
    """What bitsandbytes made of a matrix."""

    def __init__(self, path: pathlib.Path):
        with np.load(path) as found:
            self.arrays = dict(found)
        weight = self.arrays["weight"]
        self.weight = weight.view(ml_dtypes.bfloat16) if weight.dtype == np.uint16 else weight
        names = ("codes", "absmax", "nested_absmax", "nested_offset")
        self.nf4 = nf4.from_bitsandbytes(*(self.arrays[n] for n in names), self.weight.shape)

    def dequantized(self, dtype: str) -> np.ndarray:
        """[D, F]."""
        found = self.arrays[f"dequantized_{dtype}"].T
        return found.view(ml_dtypes.bfloat16) if dtype == "bfloat16" else found


@pytest.fixture(params=RECORDED, ids=lambda path: path.stem)
def record(request):
    return Record(request.param)


def test_there_are_records():
    assert {path.stem for path in RECORDED} >= {"whole_blocks", "straddling_blocks", "odd"}


class TestQuantize:
    def test_as_bitsandbytes(self, record):
        found, wanted = nf4.quantize(record.weight.T), record.nf4
        np.testing.assert_array_equal(found.codes, wanted.codes)
        # The mean is summed in another order, so it differs in its last bits, and so does what
        # comes of it.
        np.testing.assert_allclose(found.offset, wanted.offset, rtol=1e-6)
        np.testing.assert_allclose(found.scales, wanted.scales, rtol=1e-6)
        ours, theirs = (DYNAMIC[np.asarray(x.absmax).reshape(-1)] for x in (found, wanted))
        largest = np.abs(blocks_of(record.weight)).max(axis=1)
        value = (largest - found.offset) / np.repeat(found.scales, 256)[: len(largest)]
        # bitsandbytes' kernel for CPUs takes for the middle of two levels what is up to 1.4e-5
        # beside it (of 102,400 values, 155 went to the other level than the nearest).
        apart = np.flatnonzero(ours != theirs)
        np.testing.assert_allclose(value[apart], (ours + theirs)[apart] / 2, rtol=0, atol=2e-5)
        assert len(apart) <= 0.01 * len(largest)

    @settings(max_examples=12, deadline=None, derandomize=True)
    @given(
        shape=st.sampled_from([(1, 1), (1, 70), (23, 5), (64, 3), (72, 33), (256, 70)]),
        dtype=st.sampled_from(DTYPES),
        seed=st.integers(0, 3),
    )
    def test_every_code_is_the_nearest(self, shape, dtype, seed):
        matrix = draw(seed, *shape, dtype=dtype, scale=0.02)
        found = nf4.quantize(matrix)
        values = blocks_of(matrix.T)
        largest = np.abs(values).max(axis=1)
        offset = largest.mean()
        np.testing.assert_allclose(found.offset, offset, rtol=1e-6)
        groups = [largest[i : i + 256] - offset for i in range(0, len(largest), 256)]
        scales = np.array([np.abs(group).max() for group in groups])
        np.testing.assert_allclose(found.scales, scales, rtol=1e-5, atol=1e-6 * offset)
        if len(largest) > 1:  # else nothing but rounding is left of it
            value = (largest - offset) / np.repeat(scales, 256)[: len(largest)]
            nearest(found.absmax.reshape(-1), value, DYNAMIC)
        codes = np.asarray(found.codes)
        codes = np.stack([codes >> 4, codes & 15], axis=-1).reshape(shape[1], -1)[:, : shape[0]]
        nearest(codes.reshape(-1), (values / largest[:, None]).reshape(-1)[: matrix.size], LEVELS)

    def test_what_lies_in_the_middle_goes_down(self):
        middles = (LEVELS[:-1] + LEVELS[1:]) / 2
        column = np.concatenate([[1], middles, np.nextafter(middles, 2, dtype=np.float32)])
        codes = np.asarray(nf4.quantize(column[:, None].astype(np.float32)).codes)[0]
        codes = np.stack([codes >> 4, codes & 15], axis=-1).reshape(-1)[1:31]
        np.testing.assert_array_equal(codes, [*range(15), *range(1, 16)])

    def test_zeros_stay_zeros(self):
        matrix = draw(0, 128, 6)
        matrix[:64, 1], matrix[:, 4] = 0, 0
        found = np.asarray(nf4.dequantize(nf4.quantize(matrix)))
        np.testing.assert_array_equal(found[matrix == 0], 0)
        assert (np.abs(found - matrix) < 0.2 * np.abs(matrix).max()).all()
        np.testing.assert_array_equal(nf4.dequantize(nf4.quantize(np.zeros((70, 3)))), 0)

    def test_a_stack_is_quantized_matrix_by_matrix(self):
        stack = draw(0, 2, 3, 72, 5)
        stack[1] *= 10
        found = jax.jit(nf4.quantize)(stack)
        assert found.shape == stack.shape
        assert nf4.dequantize(found).shape == stack.shape
        for index in np.ndindex(2, 3):
            alone = nf4.quantize(stack[index])
            part = jax.tree.map(lambda x, i=index: x[i], found)
            np.testing.assert_array_equal(part.codes, alone.codes)
            np.testing.assert_array_equal(nf4.dequantize(found)[index], nf4.dequantize(part))
            chex.assert_trees_all_close((part.scales, part.offset), (alone.scales, alone.offset))

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_what_is_not_finite(self, bad):
        matrix = draw(0, 70, 40)
        matrix[3, 5] = bad
        with pytest.raises(ValueError, match=r"\(70, 40\) are not finite"):
            nf4.quantize(matrix)
        found = jax.jit(lambda x: nf4.dequantize(nf4.quantize(x)))(matrix)
        assert not np.isfinite(found).any()

    @pytest.mark.parametrize(
        ("shape", "dtype", "message"),
        [
            ((64,), "float32", r"expected floats \[..., D, F\], got float32 \(64,\)"),
            ((64, 2), "int32", "got int32"),
            ((2**16, 2**15), "bfloat16", "more than 2147483647"),
        ],
    )
    def test_bad_weights(self, shape, dtype, message):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(nf4.quantize, jax.ShapeDtypeStruct(shape, dtype))


def blocks_of(weight: np.ndarray) -> np.ndarray:
    """Blocks [n, 64] of torch's [out, in] in float64, the last filled up with zeros."""
    flat = np.asarray(weight, np.float64).reshape(-1)
    return np.pad(flat, (0, -len(flat) % 64)).reshape(-1, 64)


def nearest(codes, values, levels):
    """Asserts that no level is nearer than a value's own, beyond what float32 can tell."""
    apart = np.abs(levels[np.asarray(codes)] - values)
    least = np.abs(values[:, None] - levels.astype(np.float64)).min(axis=1)
    np.testing.assert_allclose(apart, least, rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dequantize_as_bitsandbytes(record, dtype):
    """To the last bit, where a fused multiply-add would give another one."""
    dequantize = jax.jit(functools.partial(nf4.dequantize, dtype=dtype)).lower(record.nf4)
    # What users get, and not the fast compilation of tests, which never fuses them.
    options = {"xla_backend_optimization_level": "3", "xla_llvm_disable_expensive_passes": False}
    found = dequantize.compile(compiler_options=options)(record.nf4)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, record.dequantized(dtype))


def test_dequantize_is_constant():
    weights = nf4.quantize(draw(0, 72, 3))
    grads = jax.grad(lambda w: nf4.dequantize(w).sum(), allow_int=True)(weights)
    np.testing.assert_array_equal(grads.scales, 0)
    np.testing.assert_array_equal(grads.offset, 0)


class TestCodebook:
    def test_levels_are_normal_quantiles(self):
        """As QLoRA defines them: eight steps below zero, nine above, out to 0.9677."""
        up = norm.ppf(np.linspace(0.9677083, 0.5, 9))[:-1]
        down = -norm.ppf(np.linspace(0.9677083, 0.5, 8))[:-1]
        levels = np.sort([*up, 0, *down]) / up.max()
        # They were published as float32 computed them.
        np.testing.assert_allclose(LEVELS, levels, rtol=0, atol=2e-7)

    def test_dynamic_map_is_bitsandbytes(self, record):
        np.testing.assert_array_equal(DYNAMIC, record.arrays["nested_quant_map"])


def test_bitsandbytes_arrays_that_do_not_fit():
    record = Record(RECORDED[0])
    weights = record.nf4
    arrays = (record.arrays["codes"], weights.absmax, weights.scales, weights.offset)
    with pytest.raises(ValueError, match="100 x 64 in NF4 has 3200 bytes, 100 blocks, 1 groups"):
        nf4.from_bitsandbytes(*arrays, (100, 64))


def test_bytes():
    """4.127 bits a weight."""
    for shape in ((2048, 16_384), (16_384, 2048)):
        weights = jax.eval_shape(nf4.quantize, jax.ShapeDtypeStruct(shape, "bfloat16"))
        count = 2048 * 16_384
        assert weights.nbytes == count // 2 + count // 64 + 4 * count // 64 // 256 + 4
        assert 8 * weights.nbytes / count == pytest.approx(4.127, abs=5e-4)


def test_bytes_of_paligemma():
    """All linears of PaliGemma 3B: the least that its base can take."""
    matrices = {  # (L, D, F): how many
        (27, 1152, 1152): 4, (27, 1152, 4304): 1, (27, 4304, 1152): 1, (1, 1152, 2048): 1,
        (18, 2048, 2048): 2, (18, 2048, 256): 2, (18, 2048, 16_384): 2, (18, 16_384, 2048): 1,
    }  # fmt: skip
    weights = sum(number * np.prod(shape) for shape, number in matrices.items())
    assert weights == 2_395_238_400
    taken = sum(
        number * jax.eval_shape(nf4.quantize, jax.ShapeDtypeStruct(shape, "float32")).nbytes
        for shape, number in matrices.items()
    )
    constants = taken - weights // 2 - weights // 64
    # A scale for each group begun, an offset for each of the 289 matrices.
    assert 4 * (weights / 64 / 256 + 289) <= constants <= 4 * (weights / 64 / 256 + 2 * 289)


@pytest.mark.parametrize("width", [64, 72])
def test_it_lives_in_states_and_checkpoints(tmp_path, width):
    class Layer(nnx.Module):
        def __init__(self):
            self.kernel = nnx.Variable(nf4.quantize(draw(0, 2, width, 5)))

    layer = Layer()
    graph, state = nnx.split(layer)
    path = tmp_path / "state"
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, nnx.to_pure_dict(state))
        checkpointer.wait_until_finished()
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), nnx.to_pure_dict(state)
        )
        restored = checkpointer.restore(path, like)
    kernel = restored["kernel"]
    assert isinstance(kernel, nf4.NF4)
    assert kernel.shape == (2, width, 5)
    chex.assert_trees_all_equal(kernel, layer.kernel.get_value())
    nnx.replace_by_pure_dict(state, jax.tree.map(lambda x: x, restored))
    chex.assert_trees_all_equal(nnx.merge(graph, state).kernel.get_value(), kernel)


SHARDED = """
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from medjax_kernels import nf4

rng = np.random.default_rng(0)
weights = nf4.quantize(rng.standard_normal((1024, 2048)))
x, d_out = (rng.standard_normal((2, n)).astype(np.float32) for n in (1024, 2048))

@jax.jit
def function(x, weights, d_out):
    out, pull = jax.vjp(lambda x: nf4.matmul(x, weights, implementation="xla"), x)
    return out, pull(d_out)[0], nf4.dequantize(weights)

wanted = function(x, weights, d_out)
mesh = Mesh(np.array(jax.devices()), ("tensor",))
for axes in (("tensor",), (None, "tensor")):  # along F, along D
    def put(array):
        spec = PartitionSpec(*axes) if array.ndim == 2 else PartitionSpec()
        return jax.device_put(array, NamedSharding(mesh, spec))
    parts = jax.tree.map(put, weights)
    assert parts.codes.addressable_shards[0].data.nbytes == weights.codes.nbytes // 4
    found = function(x, parts, d_out)
    for a, b in zip(found[:2], wanted[:2], strict=True):  # sums in another order
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(found[2], wanted[2])
print("agree")
"""


def test_it_is_sharded_along_either_axis():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    environment = os.environ | {"XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", SHARDED], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "agree\n"), done.stderr
