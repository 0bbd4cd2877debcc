"""The image tokenizer: images or masks become a grid of ids, and ids become images or masks."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from medjax.errors import UserError
from medjax.models.layers import Dtype
from medjax.models.tokenizers.config import FSQConfig, ImageTokenizerConfig, ViTConfig
from medjax.models.tokenizers.conv import ConvDecoder, ConvEncoder
from medjax.models.tokenizers.fsq import FSQ
from medjax.models.tokenizers.quantized import Quantized
from medjax.models.tokenizers.vector_quantization import VectorQuantizer
from medjax.models.tokenizers.vit import ViTDecoder, ViTEncoder


class ImageTokenizer(nnx.Module):
    """Encoder, quantizer, decoder.

    Args:
      config: sizes; also how images are normalised.
      dtype: of matmuls and convolutions. Latents and codes are compared in float32.
      param_dtype: of stored parameters; the codebook is float32.
      rngs: stream "params" draws the initial parameters.
    """

    def __init__(
        self,
        config: ImageTokenizerConfig,
        *,
        dtype: Dtype = jnp.float32,
        param_dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.config = config
        kwargs = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        width = config.quantizer.code_width
        patch, channels = config.patch_size, config.channels
        self.encoder = (
            ViTEncoder(config.encoder, patch, channels, width, **kwargs)
            if isinstance(config.encoder, ViTConfig)
            else ConvEncoder(config.encoder, channels, width, **kwargs)
        )
        self.quantizer = (
            FSQ(config.quantizer)
            if isinstance(config.quantizer, FSQConfig)
            else VectorQuantizer(config.quantizer, rngs=rngs)
        )
        self.decoder = (
            ViTDecoder(config.decoder, patch, channels, width, **kwargs)
            if isinstance(config.decoder, ViTConfig)
            else ConvDecoder(config.decoder, channels, width, **kwargs)
        )

    def quantize(self, images: Array) -> Quantized:
        """Latents, codes and ids of images; see `encode`.

        Raises:
          UserError: images that are not of the config's shape or kind.
        """
        return self.quantizer(self.encoder(self._pixels(images)))

    def encode(self, images: Array) -> Int[Array, "B h w"]:
        """The ids of images, or of masks.

        Args:
          images: [B, Y, X, C] floats, in the units of the config's mean and std; of masks
            [B, Y, X] integers, the pixels' classes. A pixel of no class (such as 255) is unknown.

        Raises:
          UserError: images that are not of the config's shape or kind.
        """
        return self.quantize(images).ids

    def decode(self, ids: Int[Array, "B h w"]) -> Float[Array, "B Y X C"]:
        """Float32 images in their own units, or logits of the classes of masks.

        What is beyond the vocabulary becomes NaN, which spreads as far as the decoder looks.
        """
        known = (ids >= 0) & (ids < self.config.vocab_size)
        codes = self.quantizer.lookup(jnp.where(known, ids, 0))
        return self.decode_codes(jnp.where(known[..., None], codes, jnp.nan))

    def decode_codes(self, codes: Float[Array, "B h w I"]) -> Float[Array, "B Y X C"]:
        """As `decode`, of codes."""
        mean, std = self._normalisation()
        return self.decoder(codes).astype(jnp.float32) * std + mean

    def _pixels(self, images: Array) -> Float[Array, "B Y X C"]:
        config = self.config
        side, channels = config.image_size, config.channels
        masks = config.kind == "mask"
        shape = (side, side) if masks else (side, side, channels)
        wanted = jnp.integer if masks else jnp.floating
        if images.shape[1:] != shape or not jnp.issubdtype(images.dtype, wanted):
            sizes = ", ".join(map(str, ("batch", *shape)))
            raise UserError(
                f"{config.kind} tokenizer: got {images.dtype} {list(images.shape)}; expected "
                f"{'integers' if masks else 'floats'} [{sizes}]"
            )
        if masks:
            return jax.nn.one_hot(images, channels)
        mean, std = self._normalisation()
        return (images.astype(jnp.float32) - mean) / std

    def _normalisation(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each channel, float32."""
        channels = self.config.channels
        mean, std = self.config.mean or (0.0,) * channels, self.config.std or (1.0,) * channels
        return np.array(mean, np.float32), np.array(std, np.float32)
