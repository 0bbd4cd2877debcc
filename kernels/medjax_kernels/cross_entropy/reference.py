"""Cross entropy in the plainest words, for reading and for tests."""

import jax
import jax.numpy as jnp

from medjax_kernels.cross_entropy.scores import TokenScores


def cross_entropy(hidden, table, targets, weights, soft_cap, label_smoothing) -> TokenScores:
    """All M x V logits at once, in float32; see `api.cross_entropy`."""
    counted = weights != 0
    weights = jax.lax.stop_gradient(weights)
    hidden = jnp.where(counted[:, None], hidden, 0)  # whatever stands there counts for nothing
    logits = hidden.astype(jnp.float32) @ table.astype(jnp.float32).T
    if soft_cap is not None:
        logits = soft_cap * jnp.tanh(logits / soft_cap)
    log_probs = jax.nn.log_softmax(logits)
    log_prob = jnp.take_along_axis(log_probs, targets[:, None], axis=1)[:, 0]
    log_prob = jnp.where((targets >= 0) & (targets < table.shape[0]), log_prob, jnp.nan)
    loss = -(1 - label_smoothing) * log_prob - label_smoothing * log_probs.mean(axis=1)
    return TokenScores(
        loss=jnp.where(counted, weights * loss, 0.0),
        log_prob=jnp.where(counted, jax.lax.stop_gradient(log_prob), 0.0),
        argmax=jnp.where(counted, logits.argmax(axis=1).astype(jnp.int32), 0),
    )
