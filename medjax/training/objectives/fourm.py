"""4M's: tokens are masked on the device, and those that are hidden are predicted."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key
from medjax_kernels.masking import DecoderTokens, Masked, MaskingScheme, masking

from medjax.modalities.table import Modality
from medjax.models.fourm import FourM, FourMConfig
from medjax.models.fourm.losses import (
    ModalityLosses,
    by_modality,
    logit_mean,
    modality_mean,
    token_mean,
)
from medjax.models.fourm.packed import all_features
from medjax.models.tokenizers import ImageTokenizer
from medjax.training.objective import Batch, Figures, Plain, Sums


class _More(NamedTuple):
    """What a part of a batch adds to it, by target."""

    losses: ModalityLosses
    correct: Float[Array, "M"]


def patches(image: Float[Array, "B Y X C"], modality: Modality) -> Float[Array, "B n I"]:
    """An image as `FourM` reads it: patches row by row, each flattened as (y, x, channel)."""
    batch, side, size = image.shape[0], modality.side, modality.patch_size
    grid = image.reshape(batch, side, size, side, size, -1).swapaxes(2, 3)
    return grid.reshape(batch, side * side, -1)


class Masking(Plain):
    """Predicts what was masked.

    Every batch is of one source, whose masking scheme says which modalities its samples have. What
    is masked is a function of (seed, step, row).
    """

    def __init__(
        self,
        config: FourMConfig,
        schemes: Mapping[str, MaskingScheme],
        tokenizers: Mapping[str, ImageTokenizer] | None = None,
        *,
        weighting: str = "token",
        label_smoothing: float = 0.0,
    ):
        """Everything that a batch may need.

        Args:
          config: of the model.
          schemes: by source.
          tokenizers: who makes the tokens of a modality, by its name; others come as ids.
          weighting: "token": the mean over tokens; "modality": the mean over modalities that are
            there of their means; "logit": tokens weighted by the size of their vocabulary (see
            `models.fourm.losses`).
          label_smoothing: see `cross_entropy`.
        """
        self._config, self._schemes = config, dict(schemes)
        self._weighting, self._smoothing = weighting, label_smoothing
        split = {name: nnx.split(model) for name, model in (tokenizers or {}).items()}
        self._graphdefs = {name: graphdef for name, (graphdef, _) in split.items()}
        self.arrays = {name: state for name, (_, state) in split.items()}
        self._targets = [config.index(name) for name in config.targets]
        self._sizes = [config.modality(name).vocab_size or 0 for name in config.targets]

    @property
    def names(self) -> tuple[str, ...]:
        """See `Objective`."""
        return "loss", "accuracy", *(f"loss/{name}" for name in self._config.targets)

    def prepare(
        self, arrays: Any, batch: Batch, key: Key[Array, ""], parts: int, source: str
    ) -> tuple[Batch, tuple[()]]:
        """Makes tokens of images, masks them, and weighs each target.

        Args:
          batch: by modality: images float [B,Y,X,C] of patches, and of tokens that are made here
            (of masks int [B,Y,X]); ids int32 [B,n]; embeddings float [B,n,C]. Of a sequence also
            `<name>/length` [B] and, if chunks are masked as a whole, `<name>/chunks` [B,n]. `valid`
            bool [B], if not all are.
        """
        del parts
        scheme = self._schemes[source]
        names = [m.name for m in scheme.modalities]
        rows = len(batch[names[0]])
        valid = batch.get("valid", jnp.ones(rows, bool))
        tokens, lengths, chunks, features = {}, {}, {}, {}
        for name in names:
            modality, value = self._config.modality(name), batch[name]
            if not modality.has_ids:
                features[name] = patches(value, modality) if modality.is_image else value
            elif modality.is_image:
                tokens[name] = self._ids(arrays, name, value)
            else:
                tokens[name] = value
                if (found := batch.get(f"{name}/chunks")) is not None:
                    chunks[name] = found
            length = modality.length if modality.is_image else batch[f"{name}/length"]
            lengths[name] = jnp.where(valid, length, 0).astype(jnp.int32)
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(rows))
        masked = masking(scheme, tokens, lengths, keys, chunks=chunks)
        masked = _by_config(self._config, names, masked)
        weights = self._weights(masked.decoder)
        share = jnp.full(rows, 1.0 / rows)  # of the divisor, which is 1 for the whole batch
        return {
            "encoder": masked.encoder, "decoder": masked.decoder,
            "features": all_features(self._config, features, rows),
            "weights": weights, "share": share,
        }, ()  # fmt: skip

    def _ids(self, arrays: Any, name: str, value: Array) -> Int[Array, "B n"]:
        if name not in self._graphdefs:
            return value
        tokenizer = nnx.merge(self._graphdefs[name], arrays[name])
        ids = jax.lax.stop_gradient(tokenizer.encode(value))
        return ids.reshape(len(value), -1)

    def _weights(self, decoder: DecoderTokens) -> Float[Array, "B T"]:
        """What each target counts, so that the loss of the whole batch is their weighted sum."""
        mine = (decoder.modality[..., None] == jnp.array(self._targets)) & decoder.valid[..., None]
        counts = mine.sum((0, 1), dtype=jnp.float32)
        if self._weighting == "token":
            each = jnp.full(counts.shape, 1.0) / jnp.maximum(counts.sum(), 1.0)
        elif self._weighting == "modality":
            present = (counts > 0).sum(dtype=jnp.float32)
            each = 1.0 / (jnp.maximum(counts, 1.0) * jnp.maximum(present, 1.0))
        else:
            logits = jnp.array(self._sizes, jnp.float32)
            each = logits / jnp.maximum((counts * logits).sum(), 1.0)
        return jnp.where(mine, each, 0.0).sum(-1)

    def _mean(self, losses: ModalityLosses) -> Float[Array, ""]:
        """The loss of what was summed: the same as the weights of `prepare` give."""
        if self._weighting == "token":
            return token_mean(losses)
        if self._weighting == "modality":
            return modality_mean(losses)
        return logit_mean(losses, self._sizes)

    def sums(self, model: FourM, part: Batch, shared: Any, index: Any) -> Sums:
        """part: as `prepare` gives it."""
        del shared, index
        decoder = part["decoder"]
        scores = model.score(
            part["encoder"], decoder, part["features"], label_smoothing=self._smoothing
        )
        right = (scores.argmax == decoder.targets).astype(jnp.float32)
        losses = by_modality(scores.loss, decoder.modality, decoder.valid, self._targets)
        correct = by_modality(right, decoder.modality, decoder.valid, self._targets).loss
        loss = (part["weights"] * scores.loss).sum()
        return Sums(loss, part["share"].sum(), _More(losses, correct))

    def figures(self, total: Sums) -> Figures:
        """Loss, share of tokens that were the most probable, and the loss of each target.

        The loss is that of all tokens together, however many batches they came in. What a modality
        has no token of is NaN.
        """
        losses, correct = total.more
        there = jnp.where(losses.tokens > 0, losses.tokens, jnp.nan)
        mean = losses.loss / there
        return {
            "loss": self._mean(losses),
            "accuracy": correct.sum() / jnp.maximum(losses.tokens.sum(), 1.0),
            **{f"loss/{name}": mean[i] for i, name in enumerate(self._config.targets)},
            "tokens": losses.tokens.sum(),
        }


def _by_config(config: FourMConfig, names: list[str], masked: Masked) -> Masked:
    """The packed tokens, their modalities numbered as the model numbers them."""
    numbers = jnp.array([config.index(name) for name in names], jnp.int32)

    def numbered(packed):
        there = numbers[jnp.maximum(packed.modality, 0)]
        return packed._replace(modality=jnp.where(packed.modality >= 0, there, -1))

    return masked._replace(encoder=numbered(masked.encoder), decoder=numbered(masked.decoder))
