"""What a quantized matrix consists of, and where each of its weights lies."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from medjax_kernels.nf4.codebook import ZERO

BLOCK = 64  # weights that share a largest absolute value
GROUP = 256  # blocks whose largest values share a scale
MAX_WEIGHTS = 2**31 - 1  # of one matrix: kernels count them in int32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NF4:
    """A matrix [D, F], or a stack of them, in 4-bit NormalFloat with double quantization.

    Weight (d, f) is

        LEVELS[code] * absmax,   absmax = DYNAMIC[absmax code] * scale + offset,

    in float32, each operation rounded. Blocks are counted as bitsandbytes counts them in torch's
    [out, in] matrix: weight (d, f) is number f * D + d, 64 of them in a row form a block, 256
    blocks in a row a group. So blocks run along D, over which matmuls sum, and a checkpoint that
    was quantized there is the same bytes here.

    An output's codes lie side by side, two a byte, the first in the upper half. If D is odd, each
    output begins a byte of its own: the only difference to bitsandbytes. If D is a multiple of 64,
    no block belongs to two outputs, `absmax` has the axes of the matrix, and both it and `codes`
    may be sharded along either. Scales are few (4 of a group's 8,452 bytes): keep them whole. XLA
    gathers the codes of an axis that tiles are cut from: F forward, D backward.

    All arrays may have the same leading axes, of stacked layers: `lax.scan` takes the stack apart.

    Attributes:
      codes: [..., F, ceil(D / 2)], two 4-bit codes a byte.
      absmax: [..., F, D / 64], or [..., blocks] if 64 does not divide D: the blocks' largest
        absolute values as codes of the dynamic 8-bit type.
      scales: [..., groups], the groups' largest distances of a block's value from the offset.
      offset: [...], the mean of the blocks' largest absolute values.
      width: D.
    """

    codes: UInt8[Array, "... F bytes"]
    absmax: UInt8[Array, "..."]
    scales: Float[Array, "... groups"]
    offset: Float[Array, "..."]
    width: int = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """[..., D, F], of the matrix that this stands for."""
        *stack, outputs, _ = self.codes.shape
        return (*stack, self.width, outputs)

    @property
    def nbytes(self) -> int:
        """Of all its arrays."""
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(self))


def blocks_of(shape: tuple[int, ...]) -> tuple[int, int]:
    """Blocks and groups of a matrix [D, F]."""
    blocks = math.ceil(math.prod(shape) / BLOCK)
    return blocks, math.ceil(blocks / GROUP)


def absmax_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of `NF4.absmax` of a matrix [D, F]."""
    width, outputs = shape
    return (blocks_of(shape)[0],) if width % BLOCK else (outputs, width // BLOCK)


def pack(codes: UInt8[Array, "*rows D"]) -> UInt8[Array, "*rows bytes"]:
    """Two codes a byte, the first in the upper half; an odd row ends with the code of zero."""
    odd = codes.shape[-1] % 2
    codes = jnp.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, odd)], constant_values=ZERO)
    return codes[..., 0::2] << 4 | codes[..., 1::2]


def unpack(packed: UInt8[Array, "*rows bytes"]) -> UInt8[Array, "*rows codes"]:
    """The codes of `pack`, with the one that an odd row was filled up with."""
    pairs = jnp.stack([packed >> 4, packed & 15], axis=-1)
    return pairs.reshape(*packed.shape[:-1], 2 * packed.shape[-1])


def from_bitsandbytes(
    weight: UInt8[Array, "..."],
    absmax: UInt8[Array, "blocks"],
    nested_absmax: Float[Array, "groups"],
    nested_offset: float,
    shape: tuple[int, int],
) -> NF4:
    """The matrix of a `Linear4bit` of bitsandbytes: its values, to the last bit.

    Args:
      weight: packed codes, in whatever shape; saved as `weight`.
      absmax: saved as `weight.absmax`.
      nested_absmax: saved as `weight.nested_absmax`.
      nested_offset: `nested_offset` of `weight.quant_state.bitsandbytes__nf4`.
      shape: `shape` of the same: torch's, (out, in) = (F, D).

    Raises:
      ValueError: arrays that are not of an NF4 matrix of this shape with blocks of 64 and 256.
    """
    outputs, width = shape
    blocks, groups = blocks_of(shape)
    size = math.ceil(outputs * width / 2)
    if (weight.size, absmax.size, nested_absmax.size) != (size, blocks, groups):
        raise ValueError(
            f"a matrix {outputs} x {width} in NF4 has {size} bytes, {blocks} blocks, {groups} "
            f"groups, not {weight.size}, {absmax.size}, {nested_absmax.size}"
        )
    codes = jnp.asarray(weight, jnp.uint8).reshape(-1)
    if width % 2:
        codes = pack(unpack(codes)[: outputs * width].reshape(outputs, width))
    return NF4(
        codes=codes.reshape(outputs, -1),
        absmax=jnp.asarray(absmax, jnp.uint8).reshape(absmax_shape((width, outputs))),
        scales=jnp.asarray(nested_absmax, jnp.float32).reshape(-1),
        offset=jnp.float32(nested_offset),
        width=width,
    )
