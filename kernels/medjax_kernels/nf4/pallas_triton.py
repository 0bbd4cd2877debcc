"""The product in one kernel, for GPUs that Triton compiles for (compute capability 8.0 and up).

A program computes a tile of the result. It takes tiles of the matrix that are a block wide (64
along D), so that an output has one largest value in a tile, or two if 64 does not divide D; turns
codes into weights in registers; and multiplies on the tensor cores. Neither weights nor the blocks'
largest values are ever written to the GPU's memory.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float

from medjax_kernels import selection
from medjax_kernels.nf4 import blocks
from medjax_kernels.nf4.codebook import DYNAMIC, LEVELS
from medjax_kernels.nf4.tiles import round_product
from medjax_kernels.nf4.weights import BLOCK, GROUP, NF4


def matmul(
    x: Float[Array, "M D"], weights: NF4, tiles: blocks.Blocks | None = None
) -> Float[Array, "M F"]:
    """x @ W. `tiles`: sizes of the kernel's tiles, if not those of the table."""
    rows, outputs = x.shape[0], weights.shape[1]
    tiles = tiles or blocks.forward(selection.device().capability, rows, x.dtype.itemsize)
    grid = (pl.cdiv(rows, tiles.rows), pl.cdiv(outputs, tiles.outputs))
    return _call(_forward_kernel, grid, (rows, outputs), x, weights, tiles)


def matmul_transposed(
    y: Float[Array, "M F"], weights: NF4, tiles: blocks.Blocks | None = None
) -> Float[Array, "M D"]:
    """y @ W.T, likewise."""
    rows, width = y.shape[0], weights.width
    tiles = tiles or blocks.backward(selection.device().capability, rows, y.dtype.itemsize)
    grid = (pl.cdiv(rows, tiles.rows), pl.cdiv(width, BLOCK))
    return _call(_backward_kernel, grid, (rows, width), y, weights, tiles)


def _call(kernel, grid, shape, x, weights: NF4, tiles: blocks.Blocks):
    return pl.pallas_call(
        functools.partial(kernel, tiles=tiles, width=weights.width),
        out_shape=jax.ShapeDtypeStruct(shape, x.dtype),
        grid=grid,
        interpret=selection.interpreted(),
        compiler_params=plgpu.CompilerParams(num_warps=tiles.warps, num_stages=tiles.stages),
        name=f"nf4{kernel.__name__}",
    )(
        x,
        weights.codes,
        weights.absmax.reshape(-1),
        weights.scales,
        weights.offset.reshape(1),
        jnp.asarray(DYNAMIC),
    )


def _forward_kernel(x_ref, codes, absmax, scales, offset, dynamic, out_ref, *, tiles, width):
    rows = _Axis(pl.program_id(0) * tiles.rows, tiles.rows, x_ref.shape[0])
    outputs = _Axis(pl.program_id(1) * tiles.outputs, tiles.outputs, codes.shape[0])

    def step(k, total):
        inputs = _Axis(k * BLOCK, BLOCK, width)
        x = _load(x_ref, rows, inputs)
        w = _weights(codes, absmax, scales, offset, dynamic, outputs, inputs)
        return total + pl.dot(x, w.astype(x.dtype), trans_b=True)

    total = jnp.zeros((tiles.rows, tiles.outputs), jnp.float32)
    total = jax.lax.fori_loop(0, pl.cdiv(width, BLOCK), step, total)
    _store(out_ref, rows, outputs, total)


def _backward_kernel(y_ref, codes, absmax, scales, offset, dynamic, out_ref, *, tiles, width):
    rows = _Axis(pl.program_id(0) * tiles.rows, tiles.rows, y_ref.shape[0])
    inputs = _Axis(pl.program_id(1) * BLOCK, BLOCK, width)

    def step(k, total):
        outputs = _Axis(k * tiles.outputs, tiles.outputs, codes.shape[0])
        y = _load(y_ref, rows, outputs)
        w = _weights(codes, absmax, scales, offset, dynamic, outputs, inputs)
        return total + pl.dot(y, w.astype(y.dtype))

    total = jnp.zeros((tiles.rows, BLOCK), jnp.float32)
    total = jax.lax.fori_loop(0, pl.cdiv(codes.shape[0], tiles.outputs), step, total)
    _store(out_ref, rows, inputs, total)


class _Axis:
    """`size` places from `start` on, of an axis of `length`."""

    def __init__(self, start, size: int, length: int):
        self.start, self.size, self.length = start, size, length
        self.slice = pl.ds(start, size)
        self.places = start + jnp.arange(size, dtype=jnp.int32)
        self.valid = self.places < length


def _mask(a: _Axis, b: _Axis):
    """Which places of a tile exist; None, which costs nothing, if the tiles fit the array."""
    mask = None
    if a.length % a.size:
        mask = jnp.broadcast_to(a.valid[:, None], (a.size, b.size))
    if b.length % b.size:
        valid = jnp.broadcast_to(b.valid[None, :], (a.size, b.size))
        mask = valid if mask is None else mask & valid
    return mask


def _load(ref, a: _Axis, b: _Axis):
    mask = _mask(a, b)
    other = None if mask is None else 0
    return plgpu.load(ref.at[a.slice, b.slice], mask=mask, other=other)


def _store(ref, a: _Axis, b: _Axis, value):
    plgpu.store(ref.at[a.slice, b.slice], value.astype(ref.dtype), mask=_mask(a, b))


def _weights(codes, absmax, scales, offset, dynamic, outputs: _Axis, inputs: _Axis):
    """Weights [outputs, 64] in float32. What lies outside of the matrix is finite, no more."""
    pairs = _Axis(inputs.start // 2, BLOCK // 2, codes.shape[1])
    packed = _load(codes, outputs, pairs).astype(jnp.int32)
    code = jnp.stack([packed >> 4, packed & 15], axis=-1).reshape(outputs.size, BLOCK)
    # Outputs beyond the last read the last's.
    first = jnp.minimum(outputs.places, outputs.length - 1) * inputs.length + inputs.start
    largest = _absmax(absmax, scales, offset, dynamic, first // BLOCK)[:, None]
    if inputs.length % BLOCK:
        # The tile begins within a block, and most often ends in the next.
        last = jnp.minimum(first // BLOCK + 1, absmax.shape[0] - 1)
        after = _absmax(absmax, scales, offset, dynamic, last)[:, None]
        place = (first % BLOCK)[:, None] + jnp.arange(BLOCK, dtype=jnp.int32)[None, :]
        largest = jnp.where(place < BLOCK, largest, after)
    return _level(code) * largest


def _absmax(absmax, scales, offset, dynamic, block):
    code = plgpu.load(absmax.at[block]).astype(jnp.int32)
    product = plgpu.load(dynamic.at[code]) * plgpu.load(scales.at[block // GROUP])
    return round_product(product) + plgpu.load(offset.at[jnp.zeros_like(block)])


def _level(code):
    """LEVELS[code] by halving: no load, and no more than 15 selections."""
    bits = [(code >> i) & 1 == 1 for i in range(4)]
    levels: list = [float(level) for level in LEVELS]
    for bit in bits:
        levels = [jnp.where(bit, b, a) for a, b in zip(levels[::2], levels[1::2], strict=True)]
    return levels[0]
