"""PaliGemma: an image's patches in front of a text, read by one prefix-LM.

Beyer et al., arXiv:2407.07726; PaliGemma 2, arXiv:2412.03555; as in google-research/big_vision
`models/proj/paligemma/paligemma.py`. What may attend to what:

            image  prefix  suffix
    image     x      x                image and prefix see each other fully,
    prefix    x      x                and nothing of the suffix;
    suffix    x      x     x . .      the suffix sees them and its own past.
                           x x .
                           x x x
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int
from medjax_kernels import Tokens, TokenScores, cross_entropy

from medjax.models.config import PaliGemmaConfig
from medjax.models.gemma import Gemma
from medjax.models.layers import Dtype, Linear, check_remat
from medjax.models.siglip import SigLIP


def prefix_lm(num_patches: int, mask_ar: Int[Array, "B T"]) -> Int[Array, "B P+T"]:
    """The attention block of every image and text token; the one place where the mask is made.

    Args:
      num_patches: P, image tokens in front; they are block 0.
      mask_ar: 1 where a token starts a new block (earlier tokens may not depend on it), else 0.
    """
    image = jnp.zeros((mask_ar.shape[0], num_patches), mask_ar.dtype)
    return jnp.cumsum(jnp.concatenate([image, mask_ar], axis=1), axis=1)


class PaliGemma(nnx.Module):
    """Vision tower, linear projector, language model.

    Args:
      config: sizes.
      dtype: of matmuls.
      param_dtype: of stored parameters.
      remat: see `layers.scan`.
      rngs: stream "params" draws the initial parameters.
    """

    def __init__(
        self,
        config: PaliGemmaConfig,
        *,
        dtype: Dtype = jnp.float32,
        param_dtype: Dtype = jnp.float32,
        remat: str = "none",
        rngs: nnx.Rngs,
    ):
        check_remat(remat)
        kwargs = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.config = config
        self.vision_tower = SigLIP(config.img, config.num_patches, remat=remat, **kwargs)
        self.multi_modal_projector = Linear(
            config.img.width, config.llm.width, axes=("embed", None), use_bias=True, **kwargs
        )
        self.language_model = Gemma(config.llm, remat=remat, **kwargs)

    def embed_image(self, image: Float[Array, "B Y X 3"]) -> Float[Array, "B P D"]:
        """Image tokens for the language model (not scaled by sqrt(D)), float32."""
        return self.multi_modal_projector(self.vision_tower(image)).astype(jnp.float32)

    def embed(
        self, image: Float[Array, "B Y X 3"], tokens: Int[Array, "B T"]
    ) -> Float[Array, "B P+T D"]:
        """Image tokens followed by embedded text, float32."""
        return jnp.concatenate([self.embed_image(image), self.language_model.embed(tokens)], axis=1)

    def hidden(
        self,
        image: Float[Array, "B Y X 3"],
        tokens: Int[Array, "B T"],
        mask_ar: Int[Array, "B T"],
    ) -> Float[Array, "B T D"]:
        """Final hidden states at the text's positions, float32.

        Padding at the end needs no mask: it is causal, so that nothing real can see it.
        """
        x = self.embed(image, tokens)
        patches = x.shape[1] - tokens.shape[1]
        positions = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])
        blocks = Tokens(block=prefix_lm(patches, mask_ar))
        hidden, _ = self.language_model(x, positions, blocks)
        return hidden[:, patches:]

    def __call__(
        self,
        image: Float[Array, "B Y X 3"],
        tokens: Int[Array, "B T"],
        mask_ar: Int[Array, "B T"],
    ) -> Float[Array, "B T V"]:
        """Logits of the token after each text position, float32; for tests and small models."""
        return self.language_model.logits(self.hidden(image, tokens, mask_ar))

    def score(
        self,
        image: Float[Array, "B Y X 3"],
        tokens: Int[Array, "B T"],
        mask_ar: Int[Array, "B T"],
        mask_loss: Int[Array, "B T"],
        *,
        label_smoothing: float = 0.0,
    ) -> TokenScores:
        """Loss, log-probability and argmax for every supervised token, [B, T - 1] each.

        Reads `tokens[:, :-1]` and predicts `tokens[:, 1:]` where `mask_loss[:, 1:]` is not zero;
        only those positions meet the vocabulary.
        """
        hidden = self.hidden(image, tokens[:, :-1], mask_ar[:, :-1])
        llm = self.language_model
        scores = cross_entropy(
            hidden.reshape(-1, hidden.shape[-1]).astype(llm.dtype),
            llm.embed_tokens.get_value(),
            tokens[:, 1:].reshape(-1),
            mask_loss[:, 1:].reshape(-1).astype(jnp.float32),
            soft_cap=llm.config.final_logits_softcap,
            label_smoothing=label_smoothing,
        )
        return TokenScores(*(x.reshape(hidden.shape[:2]) for x in scores))
