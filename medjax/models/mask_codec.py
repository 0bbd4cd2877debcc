"""PaliGemma's mask codec: a mask of 64 x 64 pixels as 16 of 128 codes, which `<seg>` tokens spell.

A vector-quantised autoencoder (Ning et al., arXiv:2301.02229), as google-research/big_vision uses
it: the encoder in `pp/proj/paligemma/segmentation.py`, the decoder in
`evaluators/proj/paligemma/transfers/segmentation.py`.
"""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from medjax.models.convolutions import Conv, Upsampling
from medjax.models.tokenizers.vector_quantization import nearest

SIDE = 64  # pixels
GRID = 4  # codes on a side; each stands for 16 x 16 pixels and what is around them
NUM_CODES = 128
CODE_WIDTH = 512
_WIDTH = 128


class ResBlock(nnx.Module):
    """x plus three convolutions of it."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.conv1 = Conv(_WIDTH, _WIDTH, 3, rngs=rngs)
        self.conv2 = Conv(_WIDTH, _WIDTH, 3, rngs=rngs)
        self.conv3 = Conv(_WIDTH, _WIDTH, 1, rngs=rngs)

    def __call__(self, x: Float[Array, "B Y X C"]) -> Float[Array, "B Y X C"]:
        y = jax.nn.relu(self.conv1(x))
        return x + self.conv3(jax.nn.relu(self.conv2(y)))


def _list(count: int, create: Callable[[int], nnx.Module]) -> nnx.List:
    return nnx.List([create(i) for i in range(count)])


class MaskCodec(nnx.Module):
    """Encoder, codebook, decoder; all float32.

    codebook: [128, 512].
    """

    def __init__(self, *, rngs: nnx.Rngs):
        down = tuple(itertools.pairwise((1, 16, 32, 64, _WIDTH)))
        self.down = _list(4, lambda i: Conv(down[i][0], down[i][1], 4, stride=2, rngs=rngs))
        self.encoder_blocks = _list(2, lambda i: ResBlock(rngs=rngs))
        self.to_code = Conv(_WIDTH, CODE_WIDTH, 1, rngs=rngs)
        codes = nnx.initializers.normal(CODE_WIDTH**-0.5)
        self.codebook: nnx.Variable = nnx.Param(
            codes(rngs.params(), (NUM_CODES, CODE_WIDTH)), axes=(None, None)
        )
        self.from_code = Conv(CODE_WIDTH, _WIDTH, 1, rngs=rngs)
        self.decoder_blocks = _list(2, lambda i: ResBlock(rngs=rngs))
        up = tuple(itertools.pairwise((_WIDTH, _WIDTH, 64, 32, 16)))
        self.up = _list(4, lambda i: Upsampling(up[i][0], up[i][1], rngs=rngs))
        self.to_pixels = Conv(16, 1, 1, rngs=rngs)

    def encode(self, masks: Float[Array, "B 64 64"]) -> Int[Array, "B 16"]:
        """The codes of masks in [0, 1], row by row: of each place, the nearest in the codebook."""
        codes = nearest(self.latents(masks), self.codebook.get_value())
        return codes.reshape(masks.shape[0], GRID * GRID)

    def latents(self, masks: Float[Array, "B 64 64"]) -> Float[Array, "B 4 4 512"]:
        """What is compared with the codebook."""
        x = 2.0 * masks[..., None] - 1.0
        for layer in self.down:
            x = jax.nn.relu(layer(x))
        for block in self.encoder_blocks:
            x = block(x)
        return self.to_code(x)

    def decode(self, codes: Int[Array, "B 16"]) -> Float[Array, "B 64 64"]:
        """The masks of codes: around -1 outside and around 1 inside, with 0 on the border."""
        vectors = jnp.take(self.codebook.get_value(), codes, axis=0)
        return self.decode_codes(vectors.reshape(codes.shape[0], GRID, GRID, CODE_WIDTH))

    def decode_codes(self, codes: Float[Array, "B 4 4 512"]) -> Float[Array, "B 64 64"]:
        """As `decode`, of the codebook's vectors."""
        x = jax.nn.relu(self.from_code(codes))
        for block in self.decoder_blocks:
            x = block(x)
        for layer in self.up:
            x = jax.nn.relu(layer(x))
        return self.to_pixels(x)[..., 0]
