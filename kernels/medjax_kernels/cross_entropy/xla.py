"""Cross entropy for any device that XLA compiles for: one chunk of tokens at a time.

Tokens that count are moved to the front, and chunks with none are skipped, so that neither time
nor memory goes to the positions of questions and padding. The gradient of the hidden states is made
in the forward pass, while a chunk's logits are there anyway; the table's, wanted only when the
vocabulary itself is trained, recomputes them.
"""

import functools

import jax
import jax.numpy as jnp

from medjax_kernels.cross_entropy.scores import TokenScores

# Logits alive at once: 2^25 float32 values are 128 MiB.
MAX_LOGITS = 2**25
MAX_CHUNK = 1024


def chunk_size(tokens: int, vocabulary: int) -> int:
    """How many tokens' logits are computed at once."""
    return max(1, min(tokens, MAX_CHUNK, MAX_LOGITS // vocabulary))


def cross_entropy(
    hidden, table, targets, weights, soft_cap, label_smoothing, chunk: int | None = None
) -> TokenScores:
    """See `api.cross_entropy`. `chunk` is the number of tokens whose logits are alive at once."""
    chunk = chunk or chunk_size(hidden.shape[0], table.shape[0])
    weights = weights.astype(jnp.float32)
    return TokenScores(
        *_cross_entropy(hidden, table, targets, weights, soft_cap, label_smoothing, chunk)
    )


def _ordered(weights, chunk):
    """Positions with those of non-zero weight first, padded to whole chunks, and how many count."""
    order = jnp.argsort(weights == 0, stable=True)
    order = jnp.pad(order, (0, -weights.shape[0] % chunk), constant_values=weights.shape[0])
    return order.reshape(-1, chunk), jnp.sum(weights != 0)


def _take(x, index):
    """Rows of x; zeros for the padding's index, which is out of range."""
    return jnp.take(x, index, axis=0, mode="fill", fill_value=0)


def _logits(hidden, table, soft_cap):
    logits = jnp.einsum(
        "MD,VD->MV", hidden, table.astype(hidden.dtype), preferred_element_type=jnp.float32
    )
    return logits if soft_cap is None else soft_cap * jnp.tanh(logits / soft_cap)


def _d_logits(logits, lse, targets, weights, soft_cap, label_smoothing):
    """Gradient of the weighted loss with respect to the logits before the cap."""
    probs = jnp.exp(logits - lse[:, None]) - label_smoothing / logits.shape[1]
    hit = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1) == targets[:, None]
    gradient = weights[:, None] * (probs - jnp.where(hit, 1.0 - label_smoothing, 0.0))
    return gradient if soft_cap is None else gradient * (1.0 - jnp.square(logits / soft_cap))


def _product(equation, d_logits, other, bound):
    """einsum of the logits' gradient and `other` in the latter's dtype, summed in float32.

    In float16 most of it, probabilities times weights, would be too small to be told from zero.
    So it is scaled by `bound`, than which no entry is larger (it broadcasts to the result, too).
    """
    scale = jnp.float32(1.0)
    if other.dtype == jnp.float16:
        scale = 2.0**15 / jnp.where(bound == 0, 1.0, bound)
    half = (d_logits * scale).astype(other.dtype)
    return jnp.einsum(equation, half, other, preferred_element_type=jnp.float32) / scale


def _each_chunk(body, empty, carry, weights, chunk):
    """Scans `body(carry, index)` over the chunks with a token that counts; the rest get `empty`."""
    order, count = _ordered(weights, chunk)

    def step(carry, inputs):
        start, index = inputs
        return jax.lax.cond(start < count, body, lambda c, _: (c, empty), carry, index)

    carry, parts = jax.lax.scan(step, carry, (jnp.arange(len(order)) * chunk, order))
    flat = order.reshape(-1)

    def restore(part):
        full = jnp.zeros((weights.shape[0], *part.shape[2:]), part.dtype)
        return full.at[flat].set(part.reshape(-1, *part.shape[2:]), mode="drop")

    return carry, jax.tree.map(restore, parts)


def _forward(hidden, table, targets, weights, soft_cap, label_smoothing, chunk, with_gradient):
    # The loss scale, without which float16 is too coarse, comes with the backward pass.
    kept = jnp.float32 if hidden.dtype == jnp.float16 else hidden.dtype

    def body(_, index):
        states, goals, w = _take(hidden, index), _take(targets, index), _take(weights, index)
        logits = _logits(states, table, soft_cap)
        lse = jax.nn.logsumexp(logits, axis=1)
        goal = jnp.take_along_axis(logits, goals[:, None], axis=1)[:, 0]
        loss = lse - (1 - label_smoothing) * goal - label_smoothing * logits.mean(axis=1)
        counted = w != 0
        out = (
            w * loss,
            jnp.where(counted, goal - lse, 0.0),
            jnp.where(counted, logits.argmax(axis=1).astype(jnp.int32), 0),
        )
        if not with_gradient:
            return None, (*out, None)
        d_logits = _d_logits(logits, lse, goals, w, soft_cap, label_smoothing)
        rows = table.astype(hidden.dtype)
        d_hidden = _product("MV,VD->MD", d_logits, rows, jnp.abs(w)[:, None])
        return None, (*out, d_hidden.astype(kept))

    zeros = jnp.zeros(chunk, jnp.float32)
    d_zeros = jnp.zeros((chunk, hidden.shape[1]), kept) if with_gradient else None
    empty = (zeros, zeros, jnp.zeros(chunk, jnp.int32), d_zeros)
    _, (loss, log_prob, argmax, d_hidden) = _each_chunk(body, empty, None, weights, chunk)
    return (loss, log_prob, argmax), d_hidden


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _cross_entropy(hidden, table, targets, weights, soft_cap, label_smoothing, chunk):
    return _forward(hidden, table, targets, weights, soft_cap, label_smoothing, chunk, False)[0]


def _vjp_forward(hidden, table, targets, weights, soft_cap, label_smoothing, chunk):
    values = (hidden.value, table.value, targets.value, weights.value)
    scores, d_hidden = _forward(*values, soft_cap, label_smoothing, chunk, hidden.perturbed)
    # Residuals may hold arrays only: an empty one tells the dtype, and what the table's gradient
    # needs is kept when it is wanted.
    like = jnp.zeros(0, hidden.value.dtype)
    return scores, (d_hidden, like, values if table.perturbed else None)


def _vjp_backward(soft_cap, label_smoothing, chunk, residuals, cotangents):
    d_hidden, like, values = residuals
    d_loss = cotangents[0]
    if isinstance(d_loss, jax.custom_derivatives.SymbolicZero):
        return None, None, None, None
    if d_hidden is not None:
        d_hidden = (d_loss[:, None] * d_hidden).astype(like.dtype)
    d_table = None
    if values is not None:
        hidden, table, targets, weights = values

        def body(total, index):
            states, goals = _take(hidden, index), _take(targets, index)
            logits = _logits(states, table, soft_cap)
            lse = jax.nn.logsumexp(logits, axis=1)
            w = _take(weights * d_loss, index)
            d_logits = _d_logits(logits, lse, goals, w, soft_cap, label_smoothing)
            return total + _product("MV,MD->VD", d_logits, states, bound), None

        bound = jnp.max(jnp.abs(weights * d_loss))
        total = jnp.zeros(table.shape, jnp.float32)
        d_table = _each_chunk(body, None, total, weights, chunk)[0].astype(table.dtype)
    return d_hidden, d_table, None, None


_cross_entropy.defvjp(_vjp_forward, _vjp_backward, symbolic_zeros=True)
