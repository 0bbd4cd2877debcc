"""4M: any modalities in, any other out.

encoder: every valid token sees every valid token.
decoder: sees the whole context, and of the targets only its own modality:

             image    caption
    image    x x x    . . .      an image's tokens see each other,
             x x x    . . .
             x x x    . . .
    caption  . . .    x . .      a sequence's their past.
             . . .    x x .
             . . .    x x x
"""

from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float
from medjax_kernels import Tokens, TokenScores, cross_entropy

from medjax.models.fourm.blocks import Decoder, Encoder
from medjax.models.fourm.config import FourMConfig
from medjax.models.fourm.embeddings import Embeddings
from medjax.models.fourm.packed import DecoderInput, Encoded, EncoderInput
from medjax.models.layers import Dtype, check_remat

Features = Mapping[str, Float[Array, "B n I"]]


class FourM(nnx.Module):
    """Embeddings, encoder, decoder, output layers.

    Args:
      config: sizes and modalities.
      dtype: of matmuls.
      param_dtype: of stored parameters.
      remat: see `layers.scan`.
      rngs: stream "params" draws the initial parameters.
    """

    def __init__(
        self,
        config: FourMConfig,
        *,
        dtype: Dtype = jnp.float32,
        param_dtype: Dtype = jnp.float32,
        remat: str = "none",
        rngs: nnx.Rngs,
    ):
        check_remat(remat)
        kwargs = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.config = config
        self.dtype = dtype
        shared = config.inputs if config.share_modality_embeddings else ()
        self.encoder_embeddings = Embeddings(config, config.inputs, **kwargs)
        self.decoder_embeddings = Embeddings(config, config.targets, shared=shared, **kwargs)
        self.encoder = Encoder(config, remat=remat, **kwargs)
        self.decoder = Decoder(config, remat=remat, **kwargs)
        init = nnx.initializers.xavier_uniform()
        self.lm_head = nnx.Dict(
            {
                name: nnx.Param(
                    init(rngs.params(), table.get_value().shape, param_dtype),
                    axes=("vocab", "embed"),
                )
                for name, table in self.decoder_embeddings.embed_tokens.items()
                if not config.tie_embeddings
            }
        )

    def _mine(self, inputs, names) -> dict[str, Bool[Array, "B T"]]:
        """Which tokens are of each modality."""
        return {name: (inputs.modality == self.config.index(name)) & inputs.valid for name in names}

    def encode(self, inputs: EncoderInput, features: Features | None = None) -> Encoded:
        """Runs the encoder.

        Args:
          inputs: packed tokens; those of a modality that is no input of the model count as not
            valid.
          features: patches and embeddings by modality, [B, n, I]; see `Modality.features`.
        """
        embeddings = self.encoder_embeddings
        mine = self._mine(inputs, self.config.inputs)
        known = jnp.stack(list(mine.values())).any(axis=0)
        content = embeddings.content(inputs.tokens, inputs.positions, mine, features or {})
        place = embeddings.place(inputs.positions, mine)
        if self.encoder.register_tokens is not None:
            registers = self.encoder.register_tokens.get_value().astype(jnp.float32)
            content = jnp.concatenate(
                [jnp.broadcast_to(registers, (content.shape[0], *registers.shape)), content], axis=1
            )
            front = ((0, 0), (len(registers), 0))
            place = jnp.pad(place, (*front, (0, 0)))
            known = jnp.pad(known, front, constant_values=True)
        # Only keys are masked: what stands where nothing is valid is computed as in the original.
        hidden = self.encoder(content + place, Tokens(valid=known))
        context = self.decoder.context_proj(hidden).astype(jnp.float32) + place
        return Encoded(hidden, context, known)

    def decode(self, inputs: DecoderInput, encoded: Encoded) -> Float[Array, "B T D"]:
        """Runs the decoder: the final hidden states, float32, from which targets are predicted."""
        mine = self._mine(inputs, self.config.targets)
        known = jnp.stack(list(mine.values())).any(axis=0)
        modality = inputs.modality if self.config.separate_modalities else None
        tokens = Tokens(block=inputs.block, modality=modality, valid=known)
        x = self.embed_targets(inputs)
        return self.decoder(x, encoded.context, tokens, Tokens(valid=encoded.valid))

    def embed_targets(self, inputs: DecoderInput) -> Float[Array, "B T D"]:
        """What the decoder's layers read, float32; zeros where no target of the model is."""
        config, embeddings = self.config, self.decoder_embeddings
        mine = self._mine(inputs, config.targets)
        images = {m.name for m in config.modalities if m.is_image}
        read = {name: here for name, here in mine.items() if name not in images}
        masked = [here for name, here in mine.items() if name in images]
        x = embeddings.content(inputs.tokens, inputs.positions, read, {})
        if masked:
            mask_token = self.decoder.mask_token.get_value().astype(jnp.float32)
            x = x + jnp.where(jnp.stack(masked).any(axis=0)[..., None], mask_token, 0.0)
        return x + embeddings.place(inputs.positions, mine, self.encoder_embeddings)

    def hidden(
        self, encoder: EncoderInput, decoder: DecoderInput, features: Features | None = None
    ) -> Float[Array, "B T D"]:
        """Final hidden states of the decoder, float32."""
        return self.decode(decoder, self.encode(encoder, features))

    def vocabulary(self, name: str) -> Float[Array, "V D"]:
        """The output layer of a modality."""
        owner = self.decoder_embeddings.embed_tokens if self.config.tie_embeddings else self.lm_head
        return owner[name].get_value()

    def logits(self, hidden: Float[Array, "... D"], name: str) -> Float[Array, "... V"]:
        """Logits of one modality's vocabulary, float32."""
        return jnp.einsum(
            "...D,VD->...V",
            hidden.astype(self.dtype),
            self.vocabulary(name).astype(self.dtype),
            preferred_element_type=jnp.float32,
        )

    def score(
        self,
        encoder: EncoderInput,
        decoder: DecoderInput,
        features: Features | None = None,
        *,
        label_smoothing: float = 0.0,
    ) -> TokenScores:
        """Loss, log-probability and argmax for every valid target, [B, T] each.

        A token meets its own modality's vocabulary alone. See `losses` for what to make of it.
        """
        hidden = self.hidden(encoder, decoder, features)
        return self.score_hidden(hidden, decoder, label_smoothing=label_smoothing)

    def score_hidden(
        self, hidden: Float[Array, "B T D"], decoder: DecoderInput, *, label_smoothing: float = 0.0
    ) -> TokenScores:
        """`score` of hidden states that are there already."""
        rows = hidden.reshape(-1, hidden.shape[-1]).astype(self.dtype)
        parts = [
            cross_entropy(
                rows,
                self.vocabulary(name),
                # The ids of other modalities may be beyond this one's vocabulary.
                jnp.where(here, decoder.targets, 0).reshape(-1),
                here.reshape(-1).astype(jnp.float32),
                label_smoothing=label_smoothing,
            )
            for name, here in self._mine(decoder, self.config.targets).items()
        ]
        # Each has zeros wherever the others do not.
        return TokenScores(*(sum(x).reshape(hidden.shape[:2]) for x in zip(*parts, strict=True)))
