"""Every cross entropy implementation against the same sums in NumPy float64, gradients included."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medjax_kernels import cross_entropy, selection
from medjax_kernels.cross_entropy import SUPPORT, fused, pallas_triton_backward, sums, xla
from medjax_kernels.cross_entropy.blocks import Blocks, Sizes


def with_sizes(implementation):
    """The operation by an implementation of other block and chunk sizes than it would choose."""

    def score(hidden, table, targets, weights, *, soft_cap=None, label_smoothing=0.0):
        return fused.cross_entropy(
            implementation, hidden, table, targets, weights, soft_cap, label_smoothing
        )

    return score


# Blocks that the shapes below fill more than once.
SMALL = Sizes(
    logits=Blocks(4, 4, 2, warps=4, stages=1),
    pull=Blocks(2, 2, 4, warps=4, stages=1),
    table=Blocks(2, 4, 4, warps=4, stages=1),
    words=8,
)

# A further implementation joins the whole suite with one line.
IMPLEMENTATIONS = {
    "reference": functools.partial(cross_entropy, implementation="reference"),
    "xla": functools.partial(cross_entropy, implementation="xla"),
    # Several blocks of tokens and chunks of words, the last of which are not full.
    "xla-small-chunks": with_sizes(xla.implementation(block=3, words=4)),
    "pallas_triton": functools.partial(cross_entropy, implementation="pallas_triton"),
    "pallas_triton-small-blocks": with_sizes(pallas_triton_backward.implementation(SMALL)),
}
FUSED = {name: score for name, score in IMPLEMENTATIONS.items() if name != "reference"}
every_fused = pytest.mark.parametrize("score", FUSED.values(), ids=FUSED.keys())
every_implementation = pytest.mark.parametrize(
    "score", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS.keys()
)

# M, D, V: one token; one word; no size that a block divides; sizes that blocks divide; many words.
SHAPES = [(1, 3, 5), (3, 2, 1), (7, 5, 11), (8, 4, 16), (5, 17, 150)]


def numpy_cross_entropy(hidden, table, targets, weights, d_loss, soft_cap, label_smoothing):
    """((loss, log_prob, argmax), (d_hidden, d_table))."""
    hidden, table, weights, d_loss = (
        np.asarray(x, np.float64) for x in (hidden, table, weights, d_loss)
    )
    logits, slope = hidden @ table.T, 1.0
    if soft_cap is not None:
        slope = 1 - np.tanh(logits / soft_cap) ** 2
        logits = soft_cap * np.tanh(logits / soft_cap)
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    vocabulary = table.shape[0]
    goal = np.eye(vocabulary)[targets] * (1 - label_smoothing) + label_smoothing / vocabulary
    counted = weights != 0
    scores = (
        -weights * (goal * log_probs).sum(axis=1),
        np.where(counted, log_probs[np.arange(len(targets)), targets], 0),
        np.where(counted, logits.argmax(axis=1), 0),
    )
    d_logits = (weights * d_loss)[:, None] * (np.exp(log_probs) - goal) * slope
    return scores, (d_logits @ table, d_logits.T @ hidden)


def draw(seed, shape, dtype=np.float32):
    """hidden, table, targets, weights (a third of them zero), and a gradient of the losses."""
    tokens, width, vocabulary = shape
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.5, 2.0, tokens) * (rng.random(tokens) < 0.67)
    return (
        rng.standard_normal((tokens, width)).astype(dtype),
        rng.standard_normal((vocabulary, width)).astype(dtype),
        rng.integers(0, vocabulary, tokens).astype(np.int32),
        weights.astype(np.float32),
        rng.standard_normal(tokens).astype(np.float32),
    )


def run(score, hidden, table, targets, weights, d_loss, argnums=(0, 1), **options):
    """(scores, gradients of the losses weighted by d_loss), compiled."""

    def total(hidden, table, targets, weights, d_loss):
        scores = score(hidden, table, targets, weights, **options)
        return jnp.sum(scores.loss * d_loss), tuple(scores)

    function = jax.jit(jax.grad(total, argnums=argnums, has_aux=True))
    grads, scores = function(hidden, table, targets, weights, d_loss)
    return scores, grads


@every_implementation
class TestEveryImplementation:
    def test_no_tokens(self, score):
        inputs = (np.zeros((0, 4), np.float32), np.ones((11, 4), np.float32), np.zeros(0, np.int32))
        nothing = np.zeros(0, np.float32)
        scores, (d_hidden, d_table) = run(score, *inputs, nothing, nothing)
        assert [x.shape for x in scores] == [(0,)] * 3
        assert d_hidden.shape == (0, 4)
        np.testing.assert_array_equal(d_table, np.zeros((11, 4)))

    def test_a_target_that_is_no_word_is_told_of(self, score):
        hidden, table, targets, weights, _ = draw(7, (7, 4, 11))
        weights[:] = 1.0
        targets[2], targets[5] = 11, -1
        scores = score(hidden, table, targets, weights)
        bad = np.isin(np.arange(7), [2, 5])
        np.testing.assert_array_equal(np.isnan(scores.loss), bad)
        np.testing.assert_array_equal(np.isnan(scores.log_prob), bad)

    def test_weights_have_no_gradient(self, score):
        hidden, table, targets, weights, _ = draw(8, (7, 4, 11))

        def total(weights):
            return score(hidden, table, targets, weights).loss.sum()

        np.testing.assert_array_equal(jax.grad(total)(weights), 0)

    @settings(max_examples=4, deadline=None, derandomize=True)
    @given(
        shape=st.sampled_from(SHAPES)
        | st.tuples(st.integers(1, 10), st.integers(1, 20), st.integers(1, 40)),
        soft_cap=st.sampled_from([None, 2.0]),
        label_smoothing=st.sampled_from([0.0, 0.1]),
        seed=st.integers(0, 3),
    )
    def test_scores_and_gradients(self, score, shape, soft_cap, label_smoothing, seed):
        options = dict(soft_cap=soft_cap, label_smoothing=label_smoothing)
        inputs = draw(seed, shape)
        found = run(score, *inputs, **options)
        wanted = numpy_cross_entropy(*inputs, **options)
        chex.assert_trees_all_close(found, wanted, rtol=1e-4, atol=1e-5)

    def test_scores_that_nobody_differentiates(self, score):
        # Another path of a function with its own derivative.
        inputs = draw(9, (9, 5, 16))
        found = jax.jit(functools.partial(score, label_smoothing=0.1, soft_cap=2.0))(*inputs[:4])
        wanted, _ = numpy_cross_entropy(*inputs, label_smoothing=0.1, soft_cap=2.0)
        chex.assert_trees_all_close(tuple(found), wanted, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("argnums", [(0,), (1,)], ids=["hidden", "table"])
    def test_gradient_of_one_alone(self, score, argnums):
        inputs = draw(0, (7, 4, 11))
        _, wanted = numpy_cross_entropy(*inputs, soft_cap=None, label_smoothing=0.1)
        _, found = run(score, *inputs, argnums=argnums, label_smoothing=0.1)
        chex.assert_trees_all_close(found, tuple(wanted[i] for i in argnums), rtol=1e-4, atol=1e-5)

    def test_no_weight_no_loss(self, score):
        hidden, table, targets, weights, d_loss = draw(1, (7, 4, 11))
        scores, grads = run(score, hidden, table, targets, 0 * weights, d_loss)
        for part in (*scores, *grads):
            np.testing.assert_array_equal(part, 0)

    def test_uncounted_tokens_matter_to_nobody(self, score):
        hidden, table, targets, weights, d_loss = draw(2, (9, 5, 16))
        out = np.flatnonzero(weights == 0)
        assert 0 < len(out) < 9
        before = run(score, hidden, table, targets, weights, d_loss)
        hidden[out], targets[out] = 50.0, 3
        chex.assert_trees_all_close(
            run(score, hidden, table, targets, weights, d_loss), before, atol=1e-6
        )

    # Inputs are rounded before both sides see them; the float32 sums differ in nothing then, and
    # gradients by the rounding of the logits' gradient (8 and 11 bits) and of the result.
    @pytest.mark.parametrize(
        ("dtype", "tolerance"),
        [(jnp.bfloat16, 4e-2), (jnp.float16, 4e-3)],
        ids=["bfloat16", "float16"],
    )
    def test_dtypes(self, score, dtype, tolerance):
        hidden, table, *rest = draw(3, (7, 4, 11))
        hidden, table = jnp.asarray(hidden, dtype), jnp.asarray(table, dtype)
        scores, grads = run(score, hidden, table, *rest)
        chex.assert_trees_all_equal_dtypes(grads, (hidden, table))
        assert [x.dtype for x in scores] == [jnp.float32, jnp.float32, jnp.int32]
        wanted = numpy_cross_entropy(hidden, table, *rest, soft_cap=None, label_smoothing=0.0)
        chex.assert_trees_all_close(scores, wanted[0], rtol=1e-4, atol=1e-4)
        grads = jax.tree.map(lambda x: np.asarray(x, np.float64), grads)
        chex.assert_trees_all_close(grads, wanted[1], rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize(
        ("weight", "loss_scale", "argnums"),
        [
            (1e-7, 2.0**15, (0, 1)),  # a weight below float16's least number
            (1.0, 2.0**24, (1,)),  # a loss scale above its greatest, of a table in float32
        ],
        ids=["tiny weights", "large loss scale"],
    )
    def test_float16_has_no_limits_within(self, score, weight, loss_scale, argnums):
        hidden, table, targets, weights, d_loss = draw(3, (7, 4, 11))
        table = table.astype(np.float16).astype(np.float32)
        inputs = (
            jnp.asarray(hidden, jnp.float16), table, targets, weight * weights, loss_scale * d_loss
        )  # fmt: skip
        _, found = run(score, *inputs, argnums=argnums)
        _, wanted = numpy_cross_entropy(*inputs, soft_cap=None, label_smoothing=0.0)
        for gradient, i in zip(found, argnums, strict=True):
            largest = np.abs(wanted[i]).max()
            np.testing.assert_allclose(gradient / largest, wanted[i] / largest, rtol=0, atol=4e-3)

    def test_only_the_loss_has_a_gradient(self, score):
        hidden, table, targets, weights, _ = draw(4, (7, 4, 11))

        def log_prob(hidden, table):
            return score(hidden, table, targets, weights).log_prob.sum()

        for gradient in jax.grad(log_prob, argnums=(0, 1))(hidden, table):
            np.testing.assert_array_equal(gradient, 0)

    def test_large_logits_do_not_overflow(self, score):
        hidden, table, targets, weights, d_loss = draw(5, (7, 4, 11))
        chex.assert_tree_all_finite(run(score, 1e4 * hidden, table, targets, weights, d_loss))


@every_fused
def test_what_does_not_count_may_be_anything(score):
    hidden, table, targets, weights, d_loss = draw(2, (9, 5, 16))
    hidden[weights == 0] = np.nan
    chex.assert_tree_all_finite(run(score, hidden, table, targets, weights, d_loss))


@every_fused
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
def test_gradient_of_tokens_that_the_model_is_sure_of(score, dtype):
    # All but some 1e-4 of the probability is the target's, and bfloat16 knows nothing between
    # 1 - 1/256 and 1: a gradient that is summed of rounded probabilities would be mostly rounding.
    hidden, table, *_ = draw(7, (1, 4, 11))
    table[3] = 12.0 * hidden[0] / np.sum(hidden[0] ** 2)
    hidden, table = jnp.asarray(hidden, dtype), jnp.asarray(table, dtype)
    inputs = (hidden, table, np.array([3]), np.ones(1, np.float32), np.ones(1, np.float32))
    (_, log_prob, _), (found,) = run(score, *inputs, argnums=(0,))
    assert -1e-3 < log_prob[0] < -1e-5
    _, (wanted, _) = numpy_cross_entropy(*inputs, soft_cap=None, label_smoothing=0.0)
    found, largest = np.asarray(found, np.float64), np.abs(wanted).max()
    # Within rounding of the exponentials, 8 bits.
    np.testing.assert_allclose(found / largest, wanted / largest, rtol=0, atol=1e-2)


def test_a_map_over_examples():
    hidden, table, targets, weights, _ = draw(6, (6, 4, 11))
    hidden, targets, weights = (x.reshape(2, 3, *x.shape[1:]) for x in (hidden, targets, weights))

    def loss(implementation, *arrays):
        return cross_entropy(*arrays, implementation=implementation).loss.sum()

    found, wanted = (
        jax.vmap(
            jax.value_and_grad(functools.partial(loss, name), argnums=(0, 1)), (0, None, 0, 0)
        )(hidden, table, targets, weights)
        for name in ("xla", "reference")
    )
    chex.assert_trees_all_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("platform", "capability", "dtype", "width", "chosen"),
    [
        ("cpu", None, "float32", 2048, "xla"),
        ("cpu", None, "bfloat16", 2048, "xla"),
        ("tpu", None, "bfloat16", 2048, "xla"),
        ("gpu", None, "float16", 2048, "xla"),
        ("gpu", (7, 0), "float16", 2048, "xla"),
        ("gpu", (7, 5), "float16", 2304, "xla"),
        ("gpu", (8, 0), "float16", 2048, "pallas_triton"),
        ("gpu", (8, 0), "bfloat16", 2304, "pallas_triton"),
        ("gpu", (8, 9), "bfloat16", 1, "pallas_triton"),
        ("gpu", (9, 0), "bfloat16", 3584, "pallas_triton"),
        ("gpu", (8, 0), "float32", 2048, "xla"),
        ("gpu", (9, 0), "float32", 3584, "xla"),
    ],
)
def test_auto(platform, capability, dtype, width, chosen):
    with selection.assume(platform, capability):
        found = selection.choose("cross_entropy", "auto", SUPPORT, dtype=dtype, width=width)
    assert found == chosen


@pytest.mark.parametrize(
    ("device", "dtype", "message"),
    [
        (("gpu", (7, 0)), jnp.float16, r"8\.0 and up.* a gpu of .* 7\.0; xla or reference"),
        (("tpu",), jnp.bfloat16, r"8\.0 and up.* a tpu; xla or reference"),
        (("cpu",), jnp.int8, "computes in float32, bfloat16, float16, not in int8"),
    ],
    ids=["v100", "tpu", "int8"],
)  # fmt: skip
def test_explicit_choice_that_cannot_run(device, dtype, message):
    hidden, table, targets, weights, _ = draw(0, (7, 4, 11))
    with selection.assume(*device), pytest.raises(ValueError, match=message):
        cross_entropy(hidden.astype(dtype), table, targets, weights, implementation="pallas_triton")


@pytest.mark.parametrize(
    ("vocabulary", "most", "multiple"),
    [(1, 128, 128), (257_216, 7_281, 128), (257_216, 10, 128), (300, 128, 1), (128, 128, 128)],
)
def test_chunks(vocabulary, most, multiple):
    size, number = sums.chunks(vocabulary, most, multiple)
    assert size % multiple == 0
    assert multiple <= size <= max(most, multiple)
    assert (number - 1) * size < vocabulary <= number * size


@pytest.mark.parametrize("trained", [(0,), (0, 1)], ids=["hidden", "hidden-and-table"])
@pytest.mark.parametrize(("implementation", "holds_all"), [("reference", True), ("xla", False)])
def test_only_the_reference_holds_all_logits(implementation, holds_all, trained):
    tokens, width, vocabulary = 4096, 8, 65_536

    def loss(hidden, table, targets, weights):
        scores = cross_entropy(hidden, table, targets, weights, implementation=implementation)
        return scores.loss.sum()

    arguments = (
        jax.ShapeDtypeStruct((tokens, width), jnp.float32),
        jax.ShapeDtypeStruct((vocabulary, width), jnp.float32),
        jax.ShapeDtypeStruct((tokens,), jnp.int32),
        jax.ShapeDtypeStruct((tokens,), jnp.float32),
    )
    compiled = jax.jit(jax.value_and_grad(loss, argnums=trained)).lower(*arguments).compile()
    temporary = compiled.memory_analysis().temp_size_in_bytes
    assert (temporary >= 4 * tokens * vocabulary) == holds_all
    if not holds_all:
        # One chunk's logits, and their gradient or probabilities.
        assert temporary < 3 * 4 * xla.sizes().budget


BAD = {
    "hidden": (dict(hidden=(4,)), "expected hidden"),
    "width": (dict(table=(5, 2)), "expected hidden"),
    "targets": (dict(targets=(3,)), "targets"),
    "weights": (dict(weights=(4, 1)), "weights"),
    "no axes": (dict(hidden=()), "expected hidden"),
}


@pytest.mark.parametrize(("shapes", "message"), BAD.values(), ids=BAD.keys())
def test_bad_shapes(shapes, message):
    shapes = dict(hidden=(4, 3), table=(5, 3), targets=(4,), weights=(4,)) | shapes
    arrays = {name: jnp.zeros(shape) for name, shape in shapes.items()}
    arrays["targets"] = arrays["targets"].astype(jnp.int32)
    with pytest.raises(ValueError, match=message):
        cross_entropy(**arrays)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(label_smoothing=1.0), "label_smoothing 1.0"),
        (dict(label_smoothing=-0.1), "label_smoothing -0.1"),
        (dict(implementation="fused"), "'fused' is none of auto, pallas_triton, xla, reference"),
    ],
)
def test_bad_options(options, message):
    hidden, table, targets, weights, _ = draw(0, (7, 4, 11))
    with pytest.raises(ValueError, match=message):
        cross_entropy(hidden, table, targets, weights, **options)
