"""Cached decoding gives what the whole forward pass gives, and depends on nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from medjax.decoding import DecodeConfig, Decoder, cached, decode
from medjax.models import lora

NEVER = 10_000  # an end token that no model emits
STEPS = 6
LENGTHS = [5, 2, 7, 4]


@pytest.fixture(scope="module")
def prompts(make_prompts):
    return make_prompts(LENGTHS, total=8)


def _adapt(model, dropout=0.0):
    lora.apply(model, lora.LoRAConfig(rank=2, alpha=6.0, dropout=dropout), rngs=nnx.Rngs(1))
    for index, (_, layer) in enumerate(lora.adapters(model)):
        b = layer.lora_b
        b.set_value(jax.random.normal(jax.random.key(index), b.shape) * 0.3)
    return model


@pytest.fixture(scope="module", params=["gemma1", "gemma2", "gemma1+lora", "gemma2+lora"])
def model(request, make_model):
    model = make_model(generation=int(request.param[5]))
    return _adapt(model) if request.param.endswith("lora") else model


GREEDY = DecodeConfig(max_new_tokens=STEPS)


def test_greedy_equals_argmax_of_whole_forward_passes(model, prompts, next_logits, log_softmax):
    added = np.zeros((len(LENGTHS), STEPS), np.int32)
    for i in range(STEPS):
        added[:, i] = next_logits(model, prompts, added)[:, i].argmax(axis=-1)
    expected = next_logits(model, prompts, added)[:, :STEPS]
    assert len(np.unique(added)) > 5, "answers that never vary would prove little"

    decoder = Decoder(model, DecodeConfig(max_new_tokens=STEPS), eos_id=NEVER)
    answers = decoder(*prompts, keep_logits=True)
    np.testing.assert_array_equal(answers.tokens, added)
    np.testing.assert_allclose(answers.logits, expected, atol=2e-4)
    chosen = np.take_along_axis(log_softmax(expected), added[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(answers.log_probs, chosen, atol=1e-4)
    np.testing.assert_allclose(answers.log_prob, chosen.sum(axis=1), atol=1e-3)
    np.testing.assert_array_equal(answers.lengths, [STEPS] * len(LENGTHS))


def test_padding_does_not_matter(decoder_for, prompts):
    decoder = decoder_for(GREEDY, NEVER)
    before = decoder(*prompts, keep_logits=True)
    rng = np.random.default_rng(5)
    more = ((0, 0), (0, 3))
    valid = np.pad(prompts.mask_input, more)
    noise = rng.integers(0, 40, valid.shape)
    garbage = prompts._replace(
        tokens=np.where(valid, np.pad(prompts.tokens, more), noise),
        mask_ar=np.where(valid, np.pad(prompts.mask_ar, more), 1),
        mask_input=valid,
    )
    after = decoder(*garbage, keep_logits=True)
    np.testing.assert_array_equal(after.tokens, before.tokens)
    np.testing.assert_allclose(after.log_probs, before.log_probs, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        DecodeConfig("greedy", STEPS),
        DecodeConfig("sample", STEPS, temperature=1.5, top_p=0.9, num_samples=3),
        DecodeConfig("beam", STEPS, num_beams=3),
    ],
    ids=lambda config: config.method,
)
def test_neighbours_do_not_matter(config, decoder_for, prompts):
    decoder = decoder_for(config, 7)
    together = decoder(*prompts, seed=3)
    order = np.array([3, 1, 1, 2])
    mixed = decoder(*(x[order] for x in prompts), seed=3, rows=order)
    np.testing.assert_array_equal(mixed.tokens, np.asarray(together.tokens)[order])
    np.testing.assert_allclose(mixed.log_probs, np.asarray(together.log_probs)[order], atol=1e-5)


def test_answers_end_with_eos(decoder_for, prompts):
    endless = np.asarray(decoder_for(GREEDY, NEVER)(*prompts, keep_logits=True).tokens)
    eos = int(endless[0, 1])
    assert eos != endless[0, 0], "the end should come after a token"
    answers = decoder_for(GREEDY, eos, pad_id=39)(*prompts, keep_logits=True)
    for row, tokens in enumerate(endless):
        ends = np.flatnonzero(tokens == eos)
        length = ends[0] + 1 if len(ends) else STEPS
        assert answers.lengths[row] == length
        np.testing.assert_array_equal(answers.tokens[row, :length], tokens[:length])
        assert (answers.tokens[row, length:] == 39).all()
        assert (answers.log_probs[row, :length] < 0).all()
        assert (answers.log_probs[row, length:] == 0).all()
        assert (answers.logits[row, length:] == 0).all()
    mean = answers.log_prob / answers.lengths
    np.testing.assert_allclose(answers.mean_log_prob, mean)
    assert answers.lengths[0] == 2


def test_stops_when_all_rows_have_ended(decoder_for, make_model, prompts, monkeypatch):
    endless = np.asarray(decoder_for(GREEDY, NEVER)(*prompts, keep_logits=True).tokens)
    one, eos = [x[:1] for x in prompts], int(endless[0, 1])
    steps = []
    real = cached.step

    def counted(*args):
        jax.debug.callback(lambda: steps.append(1))
        return real(*args)

    monkeypatch.setattr(cached, "step", counted)
    Decoder(make_model(), DecodeConfig(max_new_tokens=50), eos_id=eos)(*one)
    jax.effects_barrier()
    assert len(steps) == 1, "two tokens need one step after the prompt was read"


def test_dropout_does_not_act(make_model, prompts):
    shaky = _adapt(make_model(), dropout=0.5)
    for _, layer in lora.adapters(shaky):
        layer.deterministic = False
    answers = Decoder(shaky, GREEDY, eos_id=NEVER)(*prompts, keep_logits=True)
    assert not next(lora.adapters(shaky))[1].deterministic, "the caller's model was changed"

    shaky.eval()
    still = shaky(prompts.image, prompts.tokens, prompts.mask_ar)
    last = np.asarray(LENGTHS)[:, None, None] - 1
    expected = np.take_along_axis(np.asarray(still), last, axis=1)[:, 0]
    np.testing.assert_allclose(answers.logits[:, 0], expected, atol=2e-4)


def test_compiles_once_for_other_weights_and_seeds(make_model, prompts):
    decoder = Decoder(make_model(), DecodeConfig("sample", 1), eos_id=NEVER)
    decoder(*prompts)
    other = make_model(seed=1)
    decoder.state = nnx.state(other)
    answers = decoder(*prompts, seed=4)
    assert decoder._run._cache_size() == 1
    fresh = Decoder(other, DecodeConfig("sample", 1), eos_id=NEVER)(*prompts, seed=4)
    np.testing.assert_array_equal(answers.tokens, fresh.tokens)
    np.testing.assert_array_equal(answers.log_probs, fresh.log_probs)


def test_bfloat16_stays_near_float32(make_model, prompts):
    exact = make_model(2)(prompts.image, prompts.tokens, prompts.mask_ar)
    last = np.asarray(LENGTHS)[:, None, None] - 1
    exact = np.take_along_axis(np.asarray(exact), last, axis=1)[:, 0]
    config = DecodeConfig(max_new_tokens=2)
    rough = Decoder(make_model(2, dtype=jnp.bfloat16), config, eos_id=NEVER)
    answers = rough(*prompts, keep_logits=True)
    error = np.abs(answers.logits[:, 0] - exact).max()
    assert 0 < error < 0.5, error
    assert answers.log_probs.dtype == jnp.float32


def test_cache_dtype(decoder_for, make_model, prompts):
    exact = decoder_for(GREEDY, NEVER)(*prompts, keep_logits=True)
    decoder = Decoder(make_model(), GREEDY, eos_id=NEVER, cache_dtype=jnp.bfloat16)
    rounded = decoder(*prompts, keep_logits=True)
    # Up to the first token that differs, both answered the same.
    differs = np.asarray(exact.tokens != rounded.tokens)
    same = np.pad(~differs[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    error = np.abs(exact.logits - rounded.logits)[same.cumprod(axis=1).astype(bool)].max()
    assert 0 < error < 0.5, error


def test_programming_errors(make_model, prompts):
    model = make_model()
    with pytest.raises(ValueError, match="key"):
        decode(model, *prompts, DecodeConfig("sample", 1), eos_id=1)
    with pytest.raises(ValueError, match="beam search keeps no logits"):
        decode(model, *prompts, DecodeConfig("beam", 1, num_beams=2), eos_id=1, keep_logits=True)
