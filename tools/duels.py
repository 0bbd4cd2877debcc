"""The duels of tools/benchmark.py: medjax beside another way to compute the same."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import masking_sets
import medjax_kernels
import numpy as np
import numpy_masking
import optax
from flax import nnx
from medjax_kernels import Tokens, attention, cross_entropy
from medjax_kernels.attention import up_to
from medjax_kernels.nf4 import dequantize, matmul, quantize

from medjax.models.layers import Linear


def _same(ours, theirs) -> None:
    """Fails if two trees of numbers differ."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), ours, theirs)


class Duel(NamedTuple):
    """Two functions of the same arguments that must give the same.

    Attributes:
      medjax: is compiled.
      peer: is compiled, unless its arguments are given.
      arguments: of both.
      peer_arguments: of a peer that is plain Python: NumPy's arrays.
      agree: fails if the results differ in what they must have in common.
      samples: in the arguments, if speed is told in samples per second.
    """

    medjax: Callable
    peer: Callable
    arguments: tuple
    peer_arguments: tuple | None = None
    agree: Callable = _same
    samples: int | None = None


def _normal(*shape: int) -> jax.Array:
    rng = np.random.default_rng(sum(shape))
    return jnp.asarray(rng.standard_normal(shape), jnp.float32)


def _gradient(function: Callable) -> Callable:
    """The gradients in all arguments but the last, which is the result's."""
    return lambda *args: jax.vjp(function, *args[:-1])[1](args[-1])


def linear() -> Duel:
    """Gradient of Linear's kernel [96, 192], input [32, 64, 96]; peer: einsum over both axes."""
    graph, state = nnx.split(Linear(96, 192, axes=("embed", "mlp"), rngs=nnx.Rngs(0)))
    x = _normal(32, 64, 96)
    ours = _gradient(lambda state: nnx.merge(graph, state)(x))
    peer = _gradient(lambda state: jnp.einsum("btd,df->btf", x, state["kernel"].get_value()))
    return Duel(ours, peer, (state, _normal(32, 64, 192)))


def multi_query() -> Duel:
    """Attention of 4 heads on one key head, [32, 98, 4, 32], with gradients; peer: einsums of
    grouped heads."""

    def peer(q, k, v):
        grouped = q.reshape(32, 98, 1, 4, 32) * 32**-0.5
        logits = jnp.einsum("btkgh,bskh->bkgts", grouped, k)
        out = jnp.einsum("bkgts,bskh->btkgh", jax.nn.softmax(logits), v)
        return out.reshape(q.shape)

    q, k = _normal(32, 98, 4, 32), _normal(32, 98, 1, 32)
    return Duel(_gradient(attention), _gradient(peer), (q, k, k + 1, q + 1))


def vision_attention() -> Duel:
    """SigLIP's attention at 448 pixels, [1, 1024, 16, 72], with gradients; peer: jax.nn's."""
    q = _normal(1, 1024, 16, 72)
    peer = _gradient(jax.nn.dot_product_attention)
    return Duel(_gradient(attention), peer, (q, q + 1, q - 1, 2 * q))


def causal_attention() -> Duel:
    """Causal attention at Gemma's width, [1, 2048, 8, 256] on one key head, with gradients; peer:
    jax.nn's."""
    q, k = _normal(1, 2048, 8, 256), _normal(1, 2048, 1, 256)
    tokens = Tokens(block=jnp.arange(2048)[None])

    def ours(q, k, v):
        return attention(q, k, v, queries=tokens, keys=tokens)

    def peer(q, k, v):
        return jax.nn.dot_product_attention(q, k, v, is_causal=True)

    return Duel(_gradient(ours), _gradient(peer), (q, k, k + 1, q + 1))


def decode() -> Duel:
    """One query a row, [8, 1, 8, 256], to a cache of 4,096 slots on 4 key heads, half of them
    filled; peer: jax.nn's."""
    q, k = _normal(8, 1, 8, 256), _normal(8, 4096, 4, 256)
    lengths = 2048 - jnp.arange(8)

    def ours(q, k, v, lengths):
        return attention(q, k, v, keys=Tokens(valid=up_to(lengths, 4096)))

    def peer(q, k, v, lengths):
        return jax.nn.dot_product_attention(q, k, v, key_value_seq_lengths=lengths)

    return Duel(ours, peer, (q, k, k + 1, lengths))


def vocabulary() -> Duel:
    """Loss and gradient of 512 tokens, half of them supervised, with 32,768 words; peer: optax on
    all logits."""
    weights = jnp.tile(jnp.array([0.0, 1.0]), 256)
    targets = jnp.arange(512) * 64
    table = _normal(32_768, 512) / 16

    def ours(hidden):
        return jnp.sum(cross_entropy(hidden, table, targets, weights).loss)

    def peer(hidden):
        losses = optax.softmax_cross_entropy_with_integer_labels(hidden @ table.T, targets)
        return jnp.sum(weights * losses)

    return Duel(jax.value_and_grad(ours), jax.value_and_grad(peer), (_normal(512, 512),))


def nf4() -> Duel:
    """64 rows times a matrix [2048, 8192] in NF4, and the rows' gradient; peer: the whole matrix
    dequantized, then multiplied."""

    def both(product):
        def function(x, weights, d_out):
            out, pull = jax.vjp(lambda x: product(x, weights), x)
            return out, *pull(d_out)

        return function

    peer = both(lambda x, weights: x @ dequantize(weights))
    weights = quantize(_normal(2048, 8192) / 64)
    return Duel(both(matmul), peer, (_normal(64, 2048), weights, _normal(64, 8192)))


def masking() -> Duel:
    """4M's masking of 256 samples, three images and two sequences, budgets 128; peer: NumPy, one
    sample at a time. On one core: taskset -c 0 python tools/benchmark.py masking"""
    scheme, samples = masking_sets.five_modalities(), masking_sets.samples(256)
    peer = functools.partial(numpy_masking.batch, numpy_masking.Masker(scheme, seed=0))

    def agree(ours, theirs):
        """Each draws for itself: no budget is exceeded, and means differ by chance alone."""
        for name in ("input_counts", "target_counts"):
            a, b = np.array(getattr(ours, name)), getattr(theirs, name)
            assert max(a.sum(axis=1).max(), b.sum(axis=1).max()) <= 128
            error = np.sqrt((a.var(axis=0) + b.var(axis=0)) / len(a))
            np.testing.assert_array_less(np.abs(a.mean(axis=0) - b.mean(axis=0)), 5 * error + 1e-9)

    ours = functools.partial(medjax_kernels.masking, scheme)
    return Duel(ours, peer, samples, jax.device_get(samples[:2]), agree, samples=256)


BENCHMARKS = {
    f.__name__: f
    for f in (
        linear,
        multi_query,
        vision_attention,
        causal_attention,
        decode,
        vocabulary,
        nf4,
        masking,
    )
}
