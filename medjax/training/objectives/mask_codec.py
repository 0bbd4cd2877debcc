"""The mask codec's: masks come back from their 16 codes, and the codebook follows the latents.

As Ning et al. train it (arXiv:2301.02229; SwinTransformer/AiT, `vae/models/VQVAE.py`): the squared
difference of pixels between -1 and 1, a commitment, and a codebook of moving averages; but codes
that die start anew, as image tokenizers' do.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax.errors import UserError
from medjax.models.mask_codec import CODE_WIDTH, GRID, NUM_CODES, MaskCodec
from medjax.models.params import Carried
from medjax.models.tokenizers import VQConfig, losses, vector_quantization
from medjax.models.tokenizers.quantized import Quantized
from medjax.training.objectives.quantization import Quantization

# What a codebook may be trained with; the codec's sizes are fixed.
QUANTIZER = VQConfig(NUM_CODES, CODE_WIDTH, "l2", decay=0.99, commitment=0.25)


def in_training(codec: MaskCodec, counts: float = 0.0) -> MaskCodec:
    """The codec, changed so that no gradient but each step's latents move its codebook.

    Args:
      counts: what every code is said to have stood for in a step so far. With 0, the first step
        makes latents of all codes that it does not use.
    """
    codec.codebook = Carried(codec.codebook.get_value(), axes=(None, None))
    counted = jnp.full(NUM_CODES, counts, jnp.float32)
    codec.counts = Carried(counted, axes=(None,))  # type: ignore[attr-defined]
    return codec


class MaskReconstruction(Quantization):
    """See `Quantization`; of a codec `in_training`."""

    def __init__(self, modality: str, quantizer: VQConfig = QUANTIZER, reconstruction: str = "l2"):
        """modality: the name of the masks in a batch. reconstruction: "l2" or "l1".

        Raises:
          UserError: another loss, or a quantizer of other sizes.
        """
        super().__init__(modality, quantizer, GRID * GRID, ("codebook", "counts"))
        if reconstruction not in losses.IMAGE_LOSSES:
            raise UserError(
                f"reconstruction loss {reconstruction!r}: of the mask codec it is one of "
                f"{', '.join(losses.IMAGE_LOSSES)}"
            )
        self._config = quantizer
        self._loss = losses.IMAGE_LOSSES[reconstruction]

    def through(
        self, model: MaskCodec, images: Float[Array, "B 64 64"]
    ) -> tuple[Quantized, Float[Array, "B"]]:
        """images: masks, in [0, 1]."""
        codes = model.codebook.get_value()
        quantized = vector_quantization.quantize(model.latents(images), codes, self._config)
        decoded = model.decode_codes(quantized.codes)
        return quantized, self._loss(decoded[..., None], 2.0 * images[..., None] - 1.0)
