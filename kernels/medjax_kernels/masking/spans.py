"""The rules of images and sequences, for one sample, in words that XLA and Triton both know."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def least(noise: Int[Array, "n"], count: Int[Array, ""]) -> Int[Array, ""]:
    """A bound below which there are `count` of the numbers, or all that are not ABSENT.

    Bit by bit, which no device needs a sort for.
    """

    def step(i, bound):
        higher = bound | (jnp.int32(1) << (30 - i))
        below = jnp.sum((noise < higher).astype(jnp.int32))
        return jnp.where(below <= count, higher, bound)

    return jax.lax.fori_loop(0, 31, step, jnp.int32(0))


class Spans(NamedTuple):
    """A sequence whose masked spans are replaced by sentinels.

    The target is, for each span, its sentinel and its tokens, and one more sentinel at the end. Of
    a target that is longer than its budget only a window is left.

    Attributes:
      start: where a span begins.
      run: index of the span that a token belongs to, or the last before it.
      input_kept: whether a token gives one to the input: itself, or the sentinel where a span
        begins.
      target_index: place in the target of a masked token; its sentinel is one before.
      runs: number of spans.
      begin: the window's first place in the target.
      end: the place after its last.
      length: of the target without the window.
    """

    start: Bool[Array, "n"]
    run: Int[Array, "n"]
    input_kept: Bool[Array, "n"]
    target_index: Int[Array, "n"]
    runs: Int[Array, ""]
    begin: Int[Array, ""]
    end: Int[Array, ""]
    length: Int[Array, ""]


def spans(
    masked: Bool[Array, "n"],
    before: Bool[Array, "n"],
    valid: Bool[Array, "n"],
    inputs: Int[Array, ""],
    targets: Int[Array, ""],
    choice: Int[Array, ""],
) -> Spans:
    """The spans of one sequence.

    A target beyond its budget begins at a span drawn evenly and is as long as the budget; or, if
    less than the budget is left there, it ends with the target and begins at the earliest sentinel
    that the budget allows.

    Args:
      masked: which tokens are masked; False beyond the sequence.
      before: `masked` of the token before.
      valid: which tokens there are.
      inputs: budget of the input; none means no input at all.
      targets: budget of the target.
      choice: a number whose remainder draws the span.
    """
    start = masked & ~before
    run = jnp.cumsum(start.astype(jnp.int32)) - 1
    target_index = jnp.cumsum(masked.astype(jnp.int32)) + run
    runs = jnp.sum(start.astype(jnp.int32))
    length = jnp.sum(masked.astype(jnp.int32)) + runs + 1
    sentinel = target_index - 1
    drawn = jax.lax.rem(choice, jnp.maximum(runs, 1))
    chosen = jnp.sum(jnp.where(start & (run == drawn), sentinel, 0))
    fitting = start & (length - sentinel <= targets)
    earliest = jnp.min(jnp.where(fitting, sentinel, length - 1))
    fits, full = length <= targets, length - chosen >= targets
    begin = jnp.where(fits, 0, jnp.where(full, chosen, earliest))
    end = jnp.where(full & ~fits, chosen + targets, length)
    kept = valid & (inputs > 0) & (start | ~masked)
    return Spans(start, run, kept, target_index, runs, begin, end, length)
