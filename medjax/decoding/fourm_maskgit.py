"""Images from 4M, many tokens at a time: MaskGIT (arXiv:2202.04200), greedy, with guidance.

In each step the decoder predicts every token that is not there yet; some are kept, and the encoder
reads them in the next. As in apple/ml-4m, `fourm/models/generate.py`; shapes stay the same from
step to step, so that the loop is one compiled program, however many steps there are.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from medjax.errors import UserError
from medjax.models.fourm import DecoderInput, EncoderInput, FourM
from medjax.models.fourm.model import Features


def cosine_schedule(steps: int, tokens: int) -> tuple[int, ...]:
    """How many tokens each step keeps: differences of a falling half cosine, the rest at the end.

    Raises:
      UserError: fewer than one step or token.
    """
    _check_schedule(steps, tokens)
    curve = [0.5 * (1 + math.cos(math.pi * step / steps)) for step in range(steps)]
    kept: list[int] = []
    for before, after in itertools.pairwise(curve):
        # Rounding up may use up few tokens before the last step.
        kept.append(min(round(tokens * (before - after)), tokens - sum(kept)))
    return (*kept, tokens - sum(kept))


def linear_schedule(steps: int, tokens: int) -> tuple[int, ...]:
    """How many tokens each step keeps: as many as the others or one more, those first.

    Raises:
      UserError: fewer than one step or token.
    """
    _check_schedule(steps, tokens)
    steps = min(steps, tokens)
    return tuple(tokens // steps + (step < tokens % steps) for step in range(steps))


def _check_schedule(steps: int, tokens: int) -> None:
    if steps < 1 or tokens < 1:
        raise UserError(f"a schedule of {steps} steps for {tokens} tokens: both must be at least 1")


class Guidance(NamedTuple):
    """Classifier-free guidance (arXiv:2207.12598).

    Attributes:
      scale: logits become `without + scale * (with - without)`; 1 is none.
      unconditional: what the encoder reads without the condition; see `without`.
    """

    scale: float
    unconditional: EncoderInput


def without(inputs: EncoderInput, modalities: Sequence[int]) -> EncoderInput:
    """The inputs without the tokens of some modalities, given by their ids."""
    dropped = jnp.isin(inputs.modality, jnp.asarray(modalities))
    return inputs._replace(valid=inputs.valid & ~dropped)


def maskgit(
    model: FourM,
    inputs: EncoderInput,
    target: str,
    schedule: Sequence[int],
    *,
    features: Features | None = None,
    guidance: Guidance | None = None,
    order: Int[np.ndarray, "steps n"] | None = None,
) -> Int[Array, "B n"]:
    """The most probable tokens of an image; to be run under `jax.jit`.

    Args:
      inputs: what it is an image of: packed tokens of other modalities.
      target: name of the modality to make; all its tokens.
      schedule: how many tokens each step keeps.
      features: patches and embeddings of the inputs; see `FourM.encode`.
      guidance: see `Guidance`.
      order: which tokens a step keeps: order[s, j] is the rank of the j-th of those that are left,
        least first. If None, those are kept that the model is surest of.

    Returns:
      int32 ids, row by row.

    Raises:
      UserError: a target that is no image which the model both reads and predicts, or a schedule or
        order that is not for its tokens.
    """
    config = model.config
    names = {m.name for m in config.modalities if m.is_image} & {*config.inputs} & {*config.targets}
    if target not in names:
        raise UserError(
            f"{target!r} is no image that the model both reads and predicts; those are "
            f"{', '.join(sorted(names)) or 'none'}"
        )
    index = config.index(target)
    length = config.modalities[index].length
    if sum(schedule) != length or min(schedule, default=0) < 0:
        raise UserError(f"schedule {list(schedule)} does not add up to the {length} of {target!r}")
    if order is not None and np.shape(order) != (len(schedule), length):
        raise UserError(
            f"order has shape {np.shape(order)}; {len(schedule)} steps for {length} tokens need "
            f"({len(schedule)}, {length})"
        )
    batch = inputs.tokens.shape[0]
    positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (batch, length))
    modality = jnp.full_like(positions, index)

    def predict(known: EncoderInput, tokens, kept: Bool[Array, "B n"]) -> Float[Array, "B n V"]:
        image = EncoderInput(tokens, positions, modality, kept)
        encoder = EncoderInput(
            *(jnp.concatenate(pair, axis=1) for pair in zip(known, image, strict=True))
        )
        decoder = DecoderInput(
            tokens, tokens, positions, modality, jnp.zeros_like(positions), ~kept
        )
        return model.logits(model.hidden(encoder, decoder, features), target)

    def step(carry, now):
        tokens, kept = carry
        count, ranks = now
        logits = predict(inputs, tokens, kept)
        if guidance is not None:
            base = predict(guidance.unconditional, tokens, kept)
            logits = base + guidance.scale * (logits - base)
        if ranks is None:
            preference = -jnp.max(jax.nn.log_softmax(logits), axis=-1)
        else:
            preference = ranks[jnp.cumsum(~kept, axis=1) - 1].astype(jnp.float32)
        preference = jnp.where(kept, jnp.inf, preference)
        chosen = jnp.argsort(jnp.argsort(preference, axis=1), axis=1) < count
        tokens = jnp.where(chosen, jnp.argmax(logits, axis=-1).astype(jnp.int32), tokens)
        return (tokens, kept | chosen), None

    empty = jnp.zeros_like(positions), jnp.zeros(positions.shape, bool)
    ranks = None if order is None else jnp.asarray(order)
    (tokens, _), _ = jax.lax.scan(step, empty, (jnp.asarray(schedule), ranks))
    return tokens
