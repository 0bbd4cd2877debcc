"""What quantizes learns: reconstruction, commitment, and a codebook that follows the latents."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from medjax.models.tokenizers import Codebook, Usage, VQConfig, vector_quantization
from medjax.models.tokenizers.config import QuantizerConfig
from medjax.models.tokenizers.metrics import code_counts, codebook_use, perplexity
from medjax.models.tokenizers.quantized import Quantized
from medjax.training.objective import Batch, Figures, Plain, Sums


class _Draw(NamedTuple):
    """For each code a token of the batch: in which part, in which row of it, and where there."""

    part: Int[Array, "V"]
    row: Int[Array, "V"]
    place: Int[Array, "V"]


class _More(NamedTuple):
    """What a part of a batch adds to it.

    Attributes:
      counts: how many tokens became each code. latents: the sums of those tokens' latents.
      fresh: the latents drawn for dead codes, zeros where they lie in other parts.
    """

    reconstruction: Float[Array, ""]
    commitment: Float[Array, ""]
    counts: Float[Array, "V"]
    latents: Float[Array, "V D"] | None = None
    fresh: Float[Array, "V D"] | None = None


class Quantization(Plain):
    """Means over images of how far they come back, and of how far latents are from their codes.

    A batch in parts, or spread over devices, gives the codebook that it gives as a whole: counts
    and sums are those of all its tokens. Which latents take the place of dead codes is drawn.
    """

    def __init__(
        self, modality: str, quantizer: QuantizerConfig, places: int, codebook: tuple[str, str]
    ):
        """modality: the name of its images in a batch.

        quantizer: that of the model. places: tokens of an image.
        codebook: what the model calls the variables of `Codebook`, in their order.
        """
        self._modality, self._quantizer, self._places = modality, quantizer, places
        self._codebook = codebook

    @property
    def names(self) -> tuple[str, ...]:
        """See `Objective`."""
        return "loss", "reconstruction", "commitment", "use", "perplexity"

    def through(self, model: Any, images: Array) -> tuple[Quantized, Float[Array, "B"]]:
        """Images as codes, [B, h, w], and how far from them is what these become."""
        raise NotImplementedError

    def prepare(
        self, arrays: Any, batch: Batch, key: Key[Array, ""], parts: int, source: str
    ) -> tuple[Batch, _Draw]:
        """batch: `modality`, as `through` takes it; `valid` bool [B], if not all."""
        del arrays, source
        images = batch[self._modality]
        valid = batch.get("valid", jnp.ones(len(images), bool)).astype(jnp.float32)
        return {"images": images, "valid": valid}, self._draw(key, len(images), parts)

    def _draw(self, key: Array, rows: int, parts: int) -> _Draw:
        """Draws tokens; none twice while there are enough."""
        codes, places = self._quantizer.num_codes, self._places
        tokens = rows * places
        drawn = jax.random.choice(key, tokens, (codes,), replace=tokens < codes)
        row, place = jnp.divmod(drawn, places)
        return _Draw(row % parts, row // parts, place)  # as `accumulate` deals rows out

    def sums(self, model: Any, part: Batch, shared: _Draw, index: Any) -> Sums:
        """part: images; valid, float32 [B]."""
        images, valid = part["images"], part["valid"]
        quantized, distance = self.through(model, images)
        distance = (valid * distance).sum()
        commitment = (valid * quantized.commitment.mean((1, 2))).sum()
        loss, num_codes = distance + commitment, self._quantizer.num_codes
        ids = jnp.where(valid[:, None, None] > 0, quantized.ids, num_codes)  # beyond: not counted
        if not isinstance(self._quantizer, VQConfig):
            more = _More(distance, commitment, code_counts(ids, num_codes))
            return Sums(loss, valid.sum(), more)
        latents = jax.lax.stop_gradient(quantized.latents)
        latents = latents.reshape(latents.shape[0], -1, latents.shape[-1])
        used = vector_quantization.usage(latents, ids, num_codes)
        mine = (shared.part == index)[:, None]
        fresh = jnp.where(mine, latents[shared.row, shared.place], 0.0)
        return Sums(loss, valid.sum(), _More(distance, commitment, *used, fresh))

    def figures(self, total: Sums) -> Figures:
        """Loss, its two parts, the share of codes that occur, and their perplexity."""
        rows = jnp.maximum(total.divisor, 1.0)
        return {
            "loss": total.loss / rows,
            "reconstruction": total.more.reconstruction / rows,
            "commitment": total.more.commitment / rows,
            "use": codebook_use(total.more.counts),
            "perplexity": perplexity(total.more.counts),
        }

    def carry(self, carried: dict[str, Array], total: Sums) -> tuple[dict[str, Array], Figures]:
        """The codebook after a step, and how many dead codes started anew."""
        if not isinstance(self._quantizer, VQConfig):
            return carried, {"restarted": jnp.float32(0.0)}
        before = Codebook(*(carried[name] for name in self._codebook))
        used = Usage(total.more.counts, total.more.latents)
        after, restarted = vector_quantization.updated(
            before, used, total.more.fresh, self._quantizer
        )
        return dict(zip(self._codebook, after, strict=True)), {"restarted": restarted}
