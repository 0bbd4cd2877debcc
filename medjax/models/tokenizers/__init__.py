"""Image tokenizers: what makes ids of images and masks, for 4M to read and write.

An autoencoder with a quantizer in its middle (arXiv:1711.00937, arXiv:2309.15505); what
apple/ml-4m has in `fourm/vq`, in JAX.
"""

from medjax.models.tokenizers.config import (
    ConvConfig,
    FSQConfig,
    ImageTokenizerConfig,
    ViTConfig,
    VQConfig,
)
from medjax.models.tokenizers.model import ImageTokenizer
from medjax.models.tokenizers.vector_quantization import Codebook, Usage

__all__ = [
    "Codebook", "ConvConfig", "FSQConfig", "ImageTokenizer",
    "ImageTokenizerConfig", "Usage", "VQConfig", "ViTConfig",
]  # fmt: skip
