"""Token by token: greedy, temperature, nucleus (arXiv:1904.09751), best of n."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from medjax.decoding.answers import Answers
from medjax.decoding.cached import Memory, take_rows

# (logits [B, V], number of tokens emitted before) -> tokens [B]
Pick = Callable[[Float[Array, "B V"], Int[Array, ""]], Int[Array, "B"]]
# (memory, tokens [B]) -> (logits of the next ones [B, V], memory that has read them)
Advance = Callable[[Any, Int[Array, "B"]], tuple[Float[Array, "B V"], Any]]


def greedy(logits: Float[Array, "B V"], index: Int[Array, ""]) -> Int[Array, "B"]:
    """The most probable token (a `Pick`)."""
    del index
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def sampler(keys: Key[Array, "B"], temperature: float, top_p: float) -> Pick:
    """A `Pick` that draws; row b's draws depend on `keys[b]` and its own logits alone."""

    def pick(logits, index):
        # Shifted before it is scaled: a temperature near 0 must not overflow.
        scaled = (logits - jnp.max(logits, axis=-1, keepdims=True)) / temperature
        allowed = jnp.where(nucleus(scaled, top_p), scaled, -jnp.inf)
        step_keys = jax.vmap(lambda key: jax.random.fold_in(key, index))(keys)
        return jax.vmap(jax.random.categorical)(step_keys, allowed).astype(jnp.int32)

    return pick


def nucleus(logits: Float[Array, "B V"], top_p: float) -> Bool[Array, "B V"]:
    """The fewest most probable tokens that together reach probability `top_p`; one at least."""
    if top_p >= 1.0:
        return jnp.ones(logits.shape, bool)
    order = jnp.argsort(-logits, axis=-1)
    probs = jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1), axis=-1)
    before = jnp.cumsum(probs, axis=-1) - probs
    keep = (before < top_p).at[:, 0].set(True)
    return jnp.put_along_axis(jnp.zeros(logits.shape, bool), order, keep, axis=-1, inplace=False)


class _State(NamedTuple):
    emitted: Int[Array, ""]
    memory: Any
    last: Int[Array, "B"]
    done: Bool[Array, "B"]
    answers: Answers


def run(
    advance: Advance,
    logits: Float[Array, "B V"],
    memory: Any,
    pick: Pick,
    *,
    max_new_tokens: int,
    eos_id: int | None,
    pad_id: int,
    limits: Int[Array, "B"] | None = None,
    keep_logits: bool = False,
) -> Answers:
    """Emits tokens until every row has ended or has `max_new_tokens` of them.

    Args:
      advance: reads a token and predicts the next: `cached.step` of a model.
      logits: of the first token.
      memory: what has been read, with room for `max_new_tokens` - 1 tokens.
      pick: chooses tokens.
      eos_id: ends a row; nothing does if None.
      limits: ends a row that has as many tokens, one at least.
    """
    batch, vocab = logits.shape
    shape = (batch, max_new_tokens)

    def emit(state: _State, logits) -> _State:
        chosen = pick(logits, state.emitted)
        log_prob = jnp.take_along_axis(jax.nn.log_softmax(logits), chosen[:, None], axis=1)[:, 0]
        old, live, i = state.answers, ~state.done, state.emitted
        kept = old.logits
        if kept is not None:
            kept = kept.at[:, i].set(jnp.where(live[:, None], logits, 0.0))
        answers = Answers(
            tokens=old.tokens.at[:, i].set(jnp.where(live, chosen, pad_id)),
            log_probs=old.log_probs.at[:, i].set(jnp.where(live, log_prob, 0.0)),
            lengths=old.lengths + live,
            logits=kept,
        )
        done = state.done if eos_id is None else state.done | (chosen == eos_id)
        done = done if limits is None else done | (i + 1 >= limits)
        return _State(i + 1, state.memory, chosen, done, answers)

    def body(state: _State) -> _State:
        logits, memory = advance(state.memory, state.last)
        return emit(state._replace(memory=memory), logits)

    nothing = Answers(
        tokens=jnp.full(shape, pad_id, jnp.int32),
        log_probs=jnp.zeros(shape, jnp.float32),
        lengths=jnp.zeros(batch, jnp.int32),
        logits=jnp.zeros((*shape, vocab), jnp.float32) if keep_logits else None,
    )
    start = _State(
        jnp.int32(0), memory, jnp.zeros(batch, jnp.int32), jnp.zeros(batch, bool), nothing
    )
    return jax.lax.while_loop(
        lambda state: (state.emitted < max_new_tokens) & ~jnp.all(state.done),
        body,
        emit(start, logits),
    ).answers


def repeat(
    logits: Float[Array, "B V"], memory: Memory, times: int
) -> tuple[Float[Array, "C V"], Memory]:
    """Every row `times` times in a row: prompts are read once for all their samples."""
    rows = jnp.repeat(jnp.arange(logits.shape[0]), times)
    return logits[rows], take_rows(memory, rows)


def best(answers: Answers, times: int) -> Answers:
    """Of every `times` rows the one with the highest mean log-probability per token."""
    score = answers.mean_log_prob.reshape(-1, times)
    rows = jnp.arange(score.shape[0]) * times + jnp.argmax(score, axis=1)
    return jax.tree.map(lambda x: jnp.take(x, rows, axis=0), answers)
