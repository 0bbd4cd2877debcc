"""What masking gives: the tokens of the encoder and of the decoder."""

from typing import NamedTuple

from jaxtyping import Array, Bool, Int

from medjax_kernels.attention.tokens import Tokens


class EncoderTokens(NamedTuple):
    """Packed input, S tokens for each sample.

    Attributes:
      tokens: ids; the pad id where an image's content is not tokens, and where not valid.
      positions: of an image's token, its index in the image; of a sequence's, its index in the
        input with sentinels.
      modality: index of the modality; -1 where not valid.
      valid: whether there is a token.
    """

    tokens: Int[Array, "B S"]
    positions: Int[Array, "B S"]
    modality: Int[Array, "B S"]
    valid: Bool[Array, "B S"]

    @property
    def attention(self) -> Tokens:
        """For `medjax_kernels.attention`: everything that is valid."""
        return Tokens(valid=self.valid)


class DecoderTokens(NamedTuple):
    """Packed target, T tokens for each sample.

    Attributes:
      tokens: ids that a sequence's decoder reads; the pad id in an image, where it reads a mask
        embedding instead, and where not valid.
      targets: ids to predict: an image's own, the next of a sequence.
      positions: of an image's token, its index in the image; of a sequence's, its index in the
        target with sentinels.
      modality: index of the modality; -1 where not valid.
      block: constant within an image, counting up within a sequence, and ascending from modality to
        modality: see `medjax_kernels.Tokens`.
      valid: whether there is a token.
    """

    tokens: Int[Array, "B T"]
    targets: Int[Array, "B T"]
    positions: Int[Array, "B T"]
    modality: Int[Array, "B T"]
    block: Int[Array, "B T"]
    valid: Bool[Array, "B T"]

    @property
    def attention(self) -> Tokens:
        """For `medjax_kernels.attention`: both ways in an image, causal in a sequence, and never
        from one modality to another."""
        return Tokens(block=self.block, modality=self.modality, valid=self.valid)


class Masked(NamedTuple):
    """Masked samples.

    Attributes:
      encoder: the packed input.
      decoder: the packed target.
      input_counts: input tokens of each modality, before packing cuts any off.
      target_counts: target tokens of each modality. The decoder has one less of each sequence: its
        first token, a sentinel, is read and not predicted.
    """

    encoder: EncoderTokens
    decoder: DecoderTokens
    input_counts: Int[Array, "B M"]
    target_counts: Int[Array, "B M"]


class Part(NamedTuple):
    """One modality, ready to be packed.

    Attributes:
      kind: "image" or "sequence".
      tokens: ids; None of an image whose content is not tokens.
      input_kept: which of them are input.
      target_kept: which of them are target.
    """

    kind: str
    tokens: Int[Array, "B n"] | None
    input_kept: Bool[Array, "B n"]
    target_kept: Bool[Array, "B n"]
