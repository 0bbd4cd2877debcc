"""An image tokenizer's: images come back from the ids of their tokens."""

from collections.abc import Callable

from jaxtyping import Array, Float

from medjax.models.tokenizers import Codebook, ImageTokenizer, ImageTokenizerConfig, losses
from medjax.models.tokenizers.quantized import Quantized
from medjax.training.objectives.quantization import Quantization

# What the tokenizer calls the codebook's fields, in their order.
_CODES, _COUNTS = (f"quantizer/{field}" for field in Codebook._fields)


class Reconstruction(Quantization):
    """See `Quantization`."""

    def __init__(self, config: ImageTokenizerConfig, modality: str, reconstruction: str = "l2"):
        """config: of the tokenizer. modality: the name of its images in a batch.

        reconstruction: "l2" or "l1" of images; "cross_entropy" of masks.

        Raises:
          UserError: a loss that the tokenizer's kind does not have.
        """
        super().__init__(modality, config.quantizer, config.side**2, (_CODES, _COUNTS))
        self._distance: Callable = losses.reconstruction(config, reconstruction)

    def through(self, model: ImageTokenizer, images: Array) -> tuple[Quantized, Float[Array, "B"]]:
        """images: as `ImageTokenizer.encode` takes them."""
        quantized = model.quantize(images)
        return quantized, self._distance(model.decode_codes(quantized.codes), images)
