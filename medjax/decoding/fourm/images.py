"""Images from 4M, many tokens at a time: MaskGIT (arXiv:2202.04200) and ROAR.

In each step the decoder predicts tokens that are not there yet, and the encoder reads those that
are kept in the next. MaskGIT predicts all and keeps the surest; ROAR, random-order autoregression,
predicts a few at random places and keeps them. As in apple/ml-4m, `fourm/models/generate.py`;
shapes stay the same from step to step, so that the loop is one compiled program, however many steps
there are.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from medjax.decoding.fourm.choosing import choose
from medjax.decoding.fourm.known import Known
from medjax.decoding.fourm.passes import Passes
from medjax.models.fourm import DecoderInput, EncoderInput, FourM


class Steps(NamedTuple):
    """The numbers of each step; a step may make nothing in some rows.

    Attributes:
      counts: how many tokens. temperatures: at which they are drawn.
    """

    counts: Int[Array | np.ndarray, "steps B"]
    temperatures: Float[Array | np.ndarray, "steps B"]


class _Canvas(NamedTuple):
    tokens: Int[Array, "B n"]
    kept: Bool[Array, "B n"]


def maskgit(
    model: FourM,
    passes: Passes,
    target: str,
    given: Known,
    keys: Key[Array, "B"],
    steps: Steps,
    *,
    top_k: int | None = None,
    top_p: float = 1.0,
    order: Int[np.ndarray, "steps n"] | None = None,
) -> Known:
    """Completes an image, the surest tokens first; to be run under `jax.jit`.

    Of tokens as sure as each other in their draw (all are where only one is drawn from), those go
    first that the model itself is surest of.

    Args:
      passes: what is read beside the image.
      target: an image that the model both reads and predicts.
      given: what of it is there already.
      order: which tokens a step keeps: order[s, j] is the rank of the j-th of those that are left,
        least first.
    """

    def step(canvas: _Canvas, now):
        index, (count, temperature), ranks = now
        places = _everywhere(canvas.tokens)
        logits = _predict(model, passes, target, canvas, places, ~canvas.kept)
        chosen = choose(_fold(keys, index), logits, temperature, top_k=top_k, top_p=top_p)
        if ranks is None:
            preferences = [-chosen.own, -chosen.drawn]
        else:
            preferences = [ranks[jnp.cumsum(~canvas.kept, axis=1) - 1]]
        first = jnp.lexsort((*preferences, canvas.kept), axis=1)  # the last key goes first
        new = (jnp.argsort(first, axis=1) < count[:, None]) & ~canvas.kept
        return _Canvas(jnp.where(new, chosen.tokens, canvas.tokens), canvas.kept | new), None

    ranks = None if order is None else jnp.asarray(order)
    inputs = (jnp.arange(len(steps.counts)), steps, ranks)
    return Known(*jax.lax.scan(step, _start(given), inputs)[0])


def roar(
    model: FourM,
    passes: Passes,
    target: str,
    given: Known,
    keys: Key[Array, "B"],
    steps: Steps,
    *,
    most: int,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> Known:
    """Completes an image in random order; to be run under `jax.jit`.

    Args:
      most: the largest count of all steps.

    The others are those of `maskgit`.
    """
    start = _start(given)
    length = start.tokens.shape[1]
    random = jax.vmap(lambda key: jax.random.permutation(key, length))(_fold(keys, 0))

    def step(canvas: _Canvas, now):
        index, (count, temperature) = now
        places = jnp.argsort(jnp.where(canvas.kept, length, random), axis=1)[:, :most]
        new = jnp.arange(most) < count[:, None]
        new &= ~jnp.take_along_axis(canvas.kept, places, axis=1)
        logits = _predict(model, passes, target, canvas, places, new)
        chosen = choose(_fold(keys, index), logits, temperature, top_k=top_k, top_p=top_p)
        # What is not new goes beyond the image, where it is dropped.
        places = jnp.where(new, places, length)
        rows = jnp.arange(len(places))[:, None]
        return _Canvas(
            canvas.tokens.at[rows, places].set(chosen.tokens, mode="drop"),
            canvas.kept.at[rows, places].set(True, mode="drop"),
        ), None

    return Known(*jax.lax.scan(step, start, (jnp.arange(1, len(steps.counts) + 1), steps))[0])


def _start(given: Known) -> _Canvas:
    valid = jnp.asarray(given.valid)
    return _Canvas(jnp.where(valid, jnp.asarray(given.tokens, jnp.int32), 0), valid)


def _fold(keys: Key[Array, "B"], index) -> Key[Array, "B"]:
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, index)


def _everywhere(tokens: Int[Array, "B n"]) -> Int[Array, "B n"]:
    return jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)


def _predict(
    model: FourM,
    passes: Passes,
    target: str,
    canvas: _Canvas,
    places: Int[Array, "B T"],
    wanted: Bool[Array, "B T"],
) -> Float[Array, "B T V"]:
    """The logits at some places, guided."""
    index = model.config.index(target)
    tokens, kept, positions = map(passes.repeat, (*canvas, _everywhere(canvas.tokens)))
    image = EncoderInput(tokens, positions, jnp.full_like(tokens, index), kept)
    encoder = EncoderInput(
        *(jnp.concatenate(pair, axis=1) for pair in zip(passes.inputs, image, strict=True))
    )
    places, wanted = map(passes.repeat, (places, wanted))
    nothing = jnp.zeros_like(places)
    modality = jnp.full_like(places, index)
    decoder = DecoderInput(nothing, nothing, places, modality, nothing, wanted)
    hidden = model.hidden(encoder, decoder, passes.features)
    return passes.combine(model.logits(hidden, target))
