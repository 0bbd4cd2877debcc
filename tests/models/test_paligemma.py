"""PaliGemma's parts, and above all who may see whom."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from medjax_kernels.attention import Tokens, allowed

from medjax.checkpoints import tensors
from medjax.errors import UserError
from medjax.models.config import GemmaConfig, PaliGemmaConfig, SigLIPConfig
from medjax.models.gemma import rope
from medjax.models.paligemma import PaliGemma, prefix_lm
from medjax.models.siglip import patchify

IMG = SigLIPConfig(width=8, depth=2, mlp_dim=16, num_heads=2)
FIRST = GemmaConfig(
    width=16, depth=2, mlp_dim=24, num_heads=4, num_kv_heads=1, head_dim=4, vocab_size=40
)
SECOND = dataclasses.replace(
    FIRST, num_kv_heads=2, post_norms=True, attn_logits_softcap=3.0, final_logits_softcap=4.0
)
CONFIGS = {
    "gemma1": PaliGemmaConfig(image_size=28, img=IMG, llm=FIRST),
    "gemma2": PaliGemmaConfig(image_size=28, img=IMG, llm=SECOND),
}
PATCHES, PREFIX, SUFFIX, PADDING = 4, 3, 3, 2
LENGTH = PREFIX + SUFFIX + PADDING


def random_model(config, **kwargs) -> PaliGemma:
    """Every parameter random, norms and biases included, so that every one matters."""
    rng = np.random.default_rng(0)
    named = {
        name: (0.3 * rng.standard_normal(shape)).astype(np.float32)
        for name, shape in tensors.specs(config).items()
    }
    return tensors.build(tensors.in_memory(config, named), **kwargs)


@pytest.fixture(scope="module", params=CONFIGS)
def split(request):
    return nnx.split(random_model(CONFIGS[request.param]))


@pytest.fixture(scope="module")
def batch():
    """Two examples, the second with a shorter suffix and more padding."""
    rng = np.random.default_rng(1)
    mask_loss = np.array([[0, 0, 0, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 0, 0, 0]], np.int32)
    mask_ar = np.array([[0] * PREFIX + [1] * (SUFFIX + PADDING)] * 2, np.int32)
    real = (np.cumsum(mask_loss[:, ::-1], axis=1)[:, ::-1] > 0) | (mask_ar == 0)
    return {
        "image": rng.uniform(-1, 1, (2, 28, 28, 3)).astype(np.float32),
        "tokens": np.where(real, rng.integers(3, 40, (2, LENGTH)), 0).astype(np.int32),
        "mask_ar": mask_ar,
        "mask_loss": mask_loss,
    }


@pytest.fixture(scope="module")
def hidden(split):
    """(image, tokens, mask_ar) -> final hidden states of image and text, [B, P+T, D]."""
    graphdef, state = split

    @jax.jit
    def run(image, tokens, mask_ar):
        model = nnx.merge(graphdef, state)
        x = model.embed(image, tokens)
        positions = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])
        blocks = Tokens(block=prefix_lm(PATCHES, mask_ar))
        return model.language_model(x, positions, blocks)[0]

    return lambda batch: np.asarray(run(batch["image"], batch["tokens"], batch["mask_ar"]))


@pytest.fixture(scope="module")
def logits(split):
    graphdef, state = split
    run = jax.jit(lambda *inputs: nnx.merge(graphdef, state)(*inputs))
    return lambda batch: np.asarray(run(batch["image"], batch["tokens"], batch["mask_ar"]))


def test_prefix_lm_golden():
    blocks = prefix_lm(2, jnp.array([[0, 0, 1, 1, 1]]))
    np.testing.assert_array_equal(blocks, [[0, 0, 0, 0, 1, 2, 3]])
    wanted = [
        [1, 1, 1, 1, 0, 0, 0],  # image
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],  # prefix
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0],  # suffix
        [1, 1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 1, 1],
    ]
    np.testing.assert_array_equal(allowed(Tokens(blocks), Tokens(blocks))[0], wanted)


def test_prefix_lm_of_several_blocks_and_of_ragged_rows():
    mask_ar = jnp.array([[0, 1, 0, 1], [0, 0, 0, 1]])
    np.testing.assert_array_equal(prefix_lm(1, mask_ar), [[0, 0, 1, 1, 2], [0, 0, 0, 0, 1]])
    np.testing.assert_array_equal(prefix_lm(0, mask_ar), [[0, 1, 1, 2], [0, 0, 0, 1]])


@pytest.mark.parametrize("changed", range(PREFIX, LENGTH))
def test_a_later_suffix_token_never_changes_an_earlier_logit(logits, batch, changed):
    before = logits(batch)
    tokens = batch["tokens"].copy()
    tokens[:, changed] = (tokens[:, changed] + 7) % 40
    after = logits(batch | {"tokens": tokens})
    np.testing.assert_array_equal(after[:, :changed], before[:, :changed])
    assert np.abs(after[:, changed:] - before[:, changed:]).max(axis=-1).min() > 1e-4


def test_image_and_prefix_see_each_other_fully(hidden, batch):
    before = hidden(batch)
    seen_by_all = PATCHES + PREFIX
    for changed in range(PREFIX):
        tokens = batch["tokens"].copy()
        tokens[:, changed] = (tokens[:, changed] + 7) % 40
        change = np.abs(hidden(batch | {"tokens": tokens}) - before).max(axis=-1)
        assert change[:, :seen_by_all].min() > 1e-4, changed
    image = batch["image"].copy()
    image[:, 14:, 14:] *= -1  # the last patch
    change = np.abs(hidden(batch | {"image": image}) - before).max(axis=-1)
    assert change.min() > 1e-4


def test_nothing_of_the_suffix_reaches_image_or_prefix(hidden, batch):
    tokens = batch["tokens"].copy()
    tokens[:, PREFIX:] = (tokens[:, PREFIX:] + 7) % 40
    before, after = hidden(batch), hidden(batch | {"tokens": tokens})
    np.testing.assert_array_equal(after[:, : PATCHES + PREFIX], before[:, : PATCHES + PREFIX])


def test_padding_changes_neither_loss_nor_gradients(split, batch):
    graphdef, state = split

    @jax.jit
    @jax.value_and_grad
    def loss(state, tokens):
        return nnx.merge(graphdef, state).score(**batch | {"tokens": tokens}).loss.sum()

    padding = np.cumsum(batch["mask_loss"][:, ::-1], axis=1)[:, ::-1] == 0
    padding &= batch["mask_ar"] == 1
    assert padding.sum() == 5
    other = np.where(padding, np.arange(20, 20 + LENGTH), batch["tokens"])
    (before, d_before), (after, d_after) = loss(state, batch["tokens"]), loss(state, other)
    assert before == after
    for a, b in zip(*map(jax.tree.leaves, (d_before, d_after)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * np.abs(a).max())


def test_score_is_the_cross_entropy_of_the_logits(split, logits, batch):
    scores = nnx.merge(*split).score(**batch)
    shifted = logits(batch)[:, :-1].astype(np.float64)
    log_probs = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    targets, counted = batch["tokens"][:, 1:], batch["mask_loss"][:, 1:] == 1
    wanted = np.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(scores.loss, np.where(counted, -wanted, 0), atol=1e-4)
    np.testing.assert_allclose(scores.log_prob, np.where(counted, wanted, 0), atol=1e-4)
    np.testing.assert_array_equal(scores.argmax, np.where(counted, shifted.argmax(axis=-1), 0))


def test_final_soft_cap_bounds_logits(batch):
    model = random_model(CONFIGS["gemma2"])
    x = 100 * jnp.ones((1, 16))
    raw = np.asarray(x, np.float64) @ np.asarray(model.language_model.embed_tokens.get_value()).T
    np.testing.assert_allclose(model.language_model.logits(x), 4 * np.tanh(raw / 4), rtol=1e-4)


def test_only_text_is_scaled_by_the_root_of_the_width(split, batch):
    model = nnx.merge(*split)
    x = np.asarray(model.embed(batch["image"], batch["tokens"]))
    table = np.asarray(model.language_model.embed_tokens.get_value())
    np.testing.assert_allclose(x[:, PATCHES:], 4.0 * table[batch["tokens"]], rtol=1e-6)
    np.testing.assert_array_equal(x[:, :PATCHES], model.embed_image(batch["image"]))


def test_patchify_cuts_row_by_row():
    image = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    patches = patchify(jnp.asarray(image), 2)
    assert patches.shape == (2, 6, 12)
    for index in range(6):
        row, column = divmod(index, 3)
        wanted = image[1, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].reshape(-1)
        np.testing.assert_array_equal(patches[1, index], wanted)


def test_rope_turns_pairs_of_halves_and_knows_distance_alone():
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 1, 1, 1, 6)).astype(np.float32)
    at = lambda x, position: np.asarray(rope(x, jnp.array([[position]])))[0, 0, 0]  # noqa: E731
    np.testing.assert_allclose(at(q, 0), q[0, 0, 0], atol=1e-7)
    # As complex numbers: entries i and i + 3 are multiplied by exp(i position / 10000^(i/3)).
    turned = (q[0, 0, 0, :3] + 1j * q[0, 0, 0, 3:]) * np.exp(5j / 10_000 ** (np.arange(3) / 3))
    np.testing.assert_allclose(at(q, 5), np.r_[turned.real, turned.imag], rtol=1e-5, atol=1e-6)
    assert at(q, 7) @ at(k, 4) == pytest.approx(at(q, 103) @ at(k, 100), rel=1e-4)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_stays_near_and_the_residual_stream_is_float32(dtype, batch):
    config = CONFIGS["gemma2"]
    inputs = batch["image"], batch["tokens"], batch["mask_ar"]

    @nnx.jit
    def run(model):
        return model.embed(*inputs[:2]), model.hidden(*inputs), model(*inputs)

    half = run(random_model(config, dtype=dtype, param_dtype=dtype))
    exact = run(random_model(config))
    assert [x.dtype for x in half] == 3 * [jnp.float32]
    # Some ten layers of roundings of 2^-9 (bfloat16) or 2^-12 (float16), for logits up to 4.
    tolerance = 0.2 if dtype == jnp.bfloat16 else 0.03
    np.testing.assert_allclose(half[2], exact[2], atol=tolerance)


def test_recomputation_changes_no_gradient(batch):
    def gradient(remat):
        graphdef, state = nnx.split(random_model(CONFIGS["gemma2"], remat=remat))
        return jax.jit(jax.grad(lambda s: nnx.merge(graphdef, s).score(**batch).loss.sum()))(state)

    wanted = jax.tree.leaves(gradient("none"))
    for remat in ("full", "dots"):
        for a, b in zip(jax.tree.leaves(gradient(remat)), wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_unknown_recomputation():
    with pytest.raises(UserError, match="remat 'most'"):
        PaliGemma(CONFIGS["gemma1"], remat="most", rngs=nnx.Rngs(0))


def test_image_size_decides_the_number_of_image_tokens(batch):
    config = dataclasses.replace(CONFIGS["gemma1"], image_size=42)
    model = nnx.eval_shape(lambda: PaliGemma(config, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(model)
    image = jax.ShapeDtypeStruct((2, 42, 42, 3), jnp.float32)
    shape = jax.eval_shape(lambda s, i: nnx.merge(graphdef, s).embed_image(i), state, image).shape
    assert shape == (2, 9, 16)


def test_program_size_does_not_grow_with_depth():
    def equations(jaxpr) -> int:
        inner = (j for e in jaxpr.eqns for j in jax.core.jaxprs_in_params(e.params))
        return len(jaxpr.eqns) + sum(map(equations, inner))

    def size(depth):
        llm = dataclasses.replace(FIRST, depth=depth)
        img = dataclasses.replace(IMG, depth=depth)
        config = PaliGemmaConfig(image_size=28, img=img, llm=llm)
        graphdef, state = nnx.split(nnx.eval_shape(lambda: PaliGemma(config, rngs=nnx.Rngs(0))))
        inputs = jnp.zeros((1, 28, 28, 3)), jnp.zeros((1, 4), int), jnp.ones((1, 4), int)
        return equations(jax.make_jaxpr(lambda s: nnx.merge(graphdef, s)(*inputs))(state).jaxpr)

    assert size(2) == size(20) > 100
