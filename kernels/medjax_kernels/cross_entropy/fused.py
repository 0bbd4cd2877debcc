"""The cross entropy that never holds more than a chunk of logits, and its gradients."""

import functools

import jax
import jax.numpy as jnp

from medjax_kernels.cross_entropy import partitioning
from medjax_kernels.cross_entropy.device import Implementation
from medjax_kernels.cross_entropy.scores import Options, TokenScores


def cross_entropy(
    implementation: Implementation, hidden, table, targets, weights, soft_cap, label_smoothing
) -> TokenScores:
    """See `api.cross_entropy`."""
    if hidden.shape[0] == 0:
        nothing = jnp.zeros(0, jnp.float32)
        return TokenScores(nothing, nothing, jnp.zeros(0, jnp.int32))
    options = Options(soft_cap, label_smoothing, table.shape[0])
    weights = weights.astype(jnp.float32)
    return TokenScores(*_cross_entropy(hidden, table, targets, weights, implementation, options))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _cross_entropy(hidden, table, targets, weights, implementation, options):
    found = partitioning.forward(implementation, options, False, hidden, table, targets, weights)
    return found[:3]


def _vjp_forward(hidden, table, targets, weights, implementation, options):
    values = (hidden.value, table.value, targets.value, weights.value)
    *scores, lse, d_hidden = partitioning.forward(
        implementation, options, hidden.perturbed, *values
    )
    # Residuals may hold arrays only: an empty one tells the dtype, and what the table's gradient
    # needs is kept when it is wanted.
    like = jnp.zeros(0, hidden.value.dtype)
    return tuple(scores), (d_hidden, like, (*values, lse) if table.perturbed else None)


def _vjp_backward(implementation, options, residuals, cotangents):
    d_hidden, like, values = residuals
    d_loss = cotangents[0]
    if isinstance(d_loss, jax.custom_derivatives.SymbolicZero):
        return None, None, None, None
    if d_hidden is not None:
        d_hidden = (d_loss[:, None] * d_hidden).astype(like.dtype)
    d_table = None
    if values is not None:
        hidden, table, targets, weights, lse = values
        d_table = partitioning.table_gradient(
            implementation, options, hidden, table, targets, weights, lse, d_loss
        )
    return d_hidden, d_table, None, None


_cross_entropy.defvjp(_vjp_forward, _vjp_backward, symbolic_zeros=True)
