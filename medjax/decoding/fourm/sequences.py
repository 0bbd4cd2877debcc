"""Sequences from 4M, token by token, with cached keys and values.

The encoder runs once, and so do the projections of its context in every layer of the decoder. As
in apple/ml-4m, `fourm/models/generate.py`, which has no cache.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key
from medjax_kernels import Tokens

from medjax.decoding import sampling
from medjax.decoding.answers import Answers
from medjax.decoding.fourm.choosing import choose
from medjax.decoding.fourm.passes import Passes
from medjax.models.fourm import DecoderInput, FourM, KeysValues

PAD = 0


class Memory(NamedTuple):
    """What the decoder has read, in every pass; K, V have a leading L.

    Attributes:
      context: keys and values of what the encoder made. valid: where there is something.
      past: those of the tokens before, with room for all that come. slot: of the next.
    """

    context: KeysValues
    valid: Bool[Array, "CB S"]
    past: KeysValues
    slot: Int[Array, ""]


def prefill(model: FourM, passes: Passes, room: int) -> Memory:
    """Runs the encoder; leaves room for `room` tokens."""
    encoded = model.encode(passes.inputs, passes.features)
    context = model.decoder.keys_values(encoded.context)
    depth, rows, _, *heads = context.k.shape
    past = jnp.zeros((depth, rows, room, *heads), context.k.dtype)
    return Memory(context, encoded.valid, KeysValues(past, past), jnp.int32(0))


def step(
    model: FourM, passes: Passes, target: str, memory: Memory, tokens: Int[Array, "B"]
) -> tuple[Float[Array, "B V"], Memory]:
    """Reads one more token of each sample; returns the guided logits of the next."""
    ids = passes.repeat(tokens)[:, None]
    nothing = jnp.zeros_like(ids)
    inputs = DecoderInput(
        tokens=ids,
        targets=nothing,
        positions=jnp.full_like(ids, memory.slot),
        modality=jnp.full_like(ids, model.config.index(target)),
        block=nothing,
        valid=jnp.ones(ids.shape, bool),
    )
    hidden, past = model.decoder.step(
        model.embed_targets(inputs),
        memory.context,
        memory.past,
        Tokens(valid=memory.valid),
        memory.slot,
    )
    logits = passes.combine(model.logits(hidden[:, 0], target))
    return logits, memory._replace(past=past, slot=memory.slot + 1)


def write(
    model: FourM,
    passes: Passes,
    target: str,
    keys: Key[Array, "B"],
    temperature: Float[Array, "B"],
    *,
    max_new_tokens: int,
    start_id: int,
    eos_id: int | None,
    limits: Int[Array, "B"] | None = None,
    top_k: int | None = None,
    top_p: float = 1.0,
    keep_logits: bool = False,
) -> Answers:
    """Writes a sequence; to be run under `jax.jit`.

    Args:
      passes: what is read, what is known of the sequence itself included.
      target: a sequence that the model predicts.
      temperature: see `choose`; so are `top_k` and `top_p`.
      start_id: what the decoder reads first; no part of the answer.
      eos_id: ends an answer; nothing does if None.
      limits: tokens of each answer at most, one at least.
    """

    def pick(logits: Float[Array, "B V"], index: Int[Array, ""]) -> Int[Array, "B"]:
        now = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, index)
        return choose(now, logits, temperature, top_k=top_k, top_p=top_p).tokens

    def advance(memory: Memory, tokens: Int[Array, "B"]):
        return step(model, passes, target, memory, tokens)

    start = jnp.full(temperature.shape, start_id, jnp.int32)
    logits, memory = advance(prefill(model, passes, max_new_tokens), start)
    return sampling.run(
        advance, logits, memory, pick, max_new_tokens=max_new_tokens, eos_id=eos_id, pad_id=PAD,
        limits=limits, keep_logits=keep_logits,
    )  # fmt: skip
