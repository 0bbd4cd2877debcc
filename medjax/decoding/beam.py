"""Beam search: keep the most probable unfinished answers, return the best finished one.

At every step each kept answer may end or go on. Its ending competes for the best finished answer;
the `num_beams` most probable continuations go on (as in praxis and big_vision's `beam_decode`).
The search ends where no continuation can beat the best finished answer any more.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from medjax.decoding.answers import Answers
from medjax.decoding.cached import Memory, step, take_rows
from medjax.models.paligemma import PaliGemma


class _Live(NamedTuple):
    """The W answers that go on, most probable first."""

    log_prob: Float[Array, "B W"]
    tokens: Int[Array, "B W M"]
    log_probs: Float[Array, "B W M"]


class _State(NamedTuple):
    emitted: Int[Array, ""]
    memory: Memory
    live: _Live
    best_score: Float[Array, "B"]
    best: Answers


def search(
    model: PaliGemma,
    logits: Float[Array, "B V"],
    memory: Memory,
    *,
    num_beams: int,
    length_penalty: float,
    max_new_tokens: int,
    eos_id: int,
    pad_id: int,
) -> Answers:
    """Answers by beam search, ranked by log-probability / length ** `length_penalty`.

    An answer that `max_new_tokens` cuts off counts as finished.

    Args:
      logits, memory: what `cached.prefill` returned, with room for `max_new_tokens` - 1 tokens.
    """
    batch, vocab = logits.shape
    width, longest = num_beams, max_new_tokens

    def score(log_prob, length):
        return log_prob / jnp.asarray(length, jnp.float32) ** length_penalty

    def better(state: _State, live: _Live, log_prob, length) -> _State:
        """Lets the answers `live`, of `length` tokens and [B, W] `log_prob`, compete."""
        scores = score(log_prob, length)
        top = jnp.argmax(scores, axis=1)
        top_score = _pick(scores, top)
        wins = top_score > state.best_score
        best = Answers(
            tokens=jnp.where(wins[:, None], _pick(live.tokens, top), state.best.tokens),
            log_probs=jnp.where(wins[:, None], _pick(live.log_probs, top), state.best.log_probs),
            lengths=jnp.where(wins, length, state.best.lengths),
        )
        return state._replace(best_score=jnp.maximum(top_score, state.best_score), best=best)

    def expand(state: _State, logits) -> _State:
        i, live = state.emitted, state.live
        token_log_probs = jax.nn.log_softmax(logits).reshape(batch, width, vocab)
        total = live.log_prob[:, :, None] + token_log_probs
        ended = _Live(
            total[:, :, eos_id],
            live.tokens.at[:, :, i].set(eos_id),
            live.log_probs.at[:, :, i].set(token_log_probs[:, :, eos_id]),
        )
        state = better(state, ended, ended.log_prob, i + 1)

        going_on = total.at[:, :, eos_id].set(-jnp.inf).reshape(batch, -1)
        log_prob, index = jax.lax.top_k(going_on, width)
        parent, token = index // vocab, (index % vocab).astype(jnp.int32)
        added = jnp.take_along_axis(token_log_probs.reshape(batch, -1), index, axis=1)
        live = _Live(
            log_prob,
            _reorder(live.tokens, parent).at[:, :, i].set(token),
            _reorder(live.log_probs, parent).at[:, :, i].set(added),
        )
        rows = (jnp.arange(batch)[:, None] * width + parent).reshape(-1)
        return state._replace(emitted=i + 1, live=live, memory=take_rows(state.memory, rows))

    def body(state: _State) -> _State:
        last = state.live.tokens[:, :, state.emitted - 1].reshape(-1)
        logits, memory = step(model, state.memory, last)
        return expand(state._replace(memory=memory), logits)

    def goes_on(state: _State):
        # Log-probabilities only fall. Over a positive power of the length the best that can still
        # come has the greatest length, over a negative one the least.
        length = longest if length_penalty > 0 else state.emitted + 1
        hope = score(state.live.log_prob[:, 0], length)
        return (state.emitted < longest) & jnp.any(hope > state.best_score)

    rows = jnp.repeat(jnp.arange(batch), width)
    shape = (batch, width, longest)
    live = _Live(
        # All beams are alike at first; one is alive, the others are no answers.
        jnp.zeros((batch, width)).at[:, 1:].set(-jnp.inf),
        jnp.full(shape, pad_id, jnp.int32),
        jnp.zeros(shape, jnp.float32),
    )
    none = Answers(live.tokens[:, 0], live.log_probs[:, 0], jnp.zeros(batch, jnp.int32))
    start = _State(jnp.int32(0), take_rows(memory, rows), live, jnp.full(batch, -jnp.inf), none)
    state = jax.lax.while_loop(goes_on, body, expand(start, logits[rows]))
    cut_off = jnp.where(state.emitted == longest, state.live.log_prob, -jnp.inf)
    return better(state, state.live, cut_off, state.emitted).best


def _pick(x: Float[Array, "B W ..."], index: Int[Array, "B"]):
    """x[b, index[b]]."""
    return jax.vmap(lambda row, i: row[i])(x, index)


def _reorder(x: Float[Array, "B W ..."], index: Int[Array, "B W"]):
    """x[b, index[b, w]]."""
    return jax.vmap(lambda row, i: row[i])(x, index)
