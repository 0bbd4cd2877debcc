"""The duels of tools/benchmark.py: medjax beside another way to compute the same."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import fourm_peer
import fourm_training
import jax
import jax.numpy as jnp
import masking_sets
import medjax_kernels
import numpy as np
import numpy_masking
import optax
from flax import nnx
from medjax_kernels import Tokens, attention, cross_entropy, selection
from medjax_kernels.attention import allowed, up_to
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
      carried: whether medjax's first argument is a state, given up to it, and its result a pair
        (next state, what to compare), as in training. The peer keeps its own.
      agree: fails if the results differ in what they must have in common.
      samples: in the arguments, if speed is told in samples per second.
      packages: whose versions matter, beside jax's and what is built on it.
    """

    medjax: Callable
    peer: Callable
    arguments: tuple
    peer_arguments: tuple | None = None
    agree: Callable = _same
    samples: int | None = None
    carried: bool = False
    packages: tuple[str, ...] = ()


def _same_in_bfloat16(ours, theirs) -> None:
    """Fails if two trees differ by more than rounding to bfloat16's 8 bits explains: each side
    rounds some four times (probabilities, their and the logits' gradients, results), by 2^-9 of a
    number."""

    def check(a, b):
        a, b = (np.asarray(x, np.float32) for x in (a, b))
        np.testing.assert_allclose(a, b, rtol=0, atol=2 * 4 * 2.0**-9 * np.abs(b).max())

    jax.tree.map(check, ours, theirs)


def _normal(*shape: int) -> jax.Array:
    rng = np.random.default_rng(sum(shape))
    return jnp.asarray(rng.standard_normal(shape), jnp.float32)


def _gradient(function: Callable) -> Callable:
    """The gradients in all arguments but the last, which is the result's."""
    return lambda *args: jax.vjp(function, *args[:-1])[1](args[-1])


def _with_gradients(function: Callable) -> Callable:
    """The result, too."""

    def both(*args):
        out, pull = jax.vjp(function, *args[:-1])
        return out, *pull(args[-1])

    return both


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


def siglip_448() -> Duel:
    """For GPUs with bfloat16: SigLIP's attention at 448 pixels, [8, 1024, 16, 72], with gradients;
    peer: jax.nn's, cuDNN's where that takes the heads. A CPU takes [1, 512, ...]."""
    return _siglip(_fastest_of_jax(72))


def siglip_448_naive() -> Duel:
    """As siglip_448; peer: einsums."""
    return _siglip(_einsums)


def gemma_1024() -> Duel:
    """For GPUs with bfloat16: Gemma's attention, [8, 1024, 8, 256] on one key head, a quarter of it
    prefix and the rest causal, with gradients; peer: jax.nn's, cuDNN's where that takes the heads.
    A CPU takes [1, 512, ...]."""
    return _gemma(_fastest_of_jax(256))


def gemma_1024_naive() -> Duel:
    """As gemma_1024; peer: einsums."""
    return _gemma(_einsums)


def _siglip(peer: Callable) -> Duel:
    arrays = _normal(4, *_rows(), 16, 72).astype(jnp.bfloat16)
    sides = (_with_gradients(attention), _with_gradients(peer))
    return Duel(*sides, tuple(arrays), agree=_same_in_bfloat16)


def _gemma(peer: Callable) -> Duel:
    batch, length = _rows()
    q, d_out = _normal(2, batch, length, 8, 256).astype(jnp.bfloat16)
    k, v = _normal(2, batch, length, 1, 256).astype(jnp.bfloat16)
    tokens = Tokens(block=jnp.maximum(jnp.arange(length) - length // 4 + 1, 0)[None])
    mask = allowed(tokens, tokens)[:, None]
    sides = (
        _with_gradients(functools.partial(attention, queries=tokens, keys=tokens)),
        _with_gradients(functools.partial(peer, mask=mask)),
    )
    return Duel(*sides, (q, k, v, d_out), agree=_same_in_bfloat16)


def _rows() -> tuple[int, int]:
    """Batch and length."""
    return (8, 1024) if selection.device().platform == "gpu" else (1, 512)


def _fastest_of_jax(width: int) -> Callable:
    """jax.nn's attention. cuDNN's needs compute capability 8.0 and a multiple of 8 columns, at
    most 128 of them before 9.0 and 256 from then on, as jax.nn checks itself."""
    capability = selection.device().capability or (0, 0)
    most = 256 if capability >= (9, 0) else 128
    cudnn = capability >= (8, 0) and width <= most and width % 8 == 0
    return functools.partial(
        jax.nn.dot_product_attention, implementation="cudnn" if cudnn else None
    )


def _einsums(q, k, v, mask=None):
    """Attention that holds all logits, in float32."""
    grouped = q.reshape(*q.shape[:2], k.shape[2], -1, q.shape[3])
    logits = jnp.einsum("btkgh,bskh->bkgts", grouped, k, preferred_element_type=jnp.float32)
    logits = logits * q.shape[3] ** -0.5
    if mask is not None:
        logits = jnp.where(mask[:, :, None], logits, jnp.finfo(jnp.float32).min)
    probs = jax.nn.softmax(logits).astype(q.dtype)
    return jnp.einsum("bkgts,bskh->btkgh", probs, v).reshape(q.shape)


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


def fourm_train() -> Duel:
    """A training step of 4M: 87 million parameters, 8 samples of 128 + 128 tokens, AdamW, masks
    drawn anew; peer: the same size in PyTorch's own layers, masks drawn before."""
    step, arguments = fourm_training.step_and_arguments()
    return Duel(
        step, fourm_peer.step(), arguments, (), fourm_training.agree,
        samples=fourm_training.BATCH, carried=True, packages=("torch",),
    )  # fmt: skip


BENCHMARKS = {
    f.__name__: f
    for f in (
        linear,
        multi_query,
        vision_attention,
        causal_attention,
        siglip_448,
        siglip_448_naive,
        gemma_1024,
        gemma_1024_naive,
        decode,
        vocabulary,
        nf4,
        masking,
        fourm_train,
    )
}
