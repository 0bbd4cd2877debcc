"""Beam search finds what exhaustive search finds, and what a plain beam search finds."""

import itertools

import numpy as np
import pytest

from medjax.decoding import DecodeConfig, Decoder

EOS, PAD = 1, 0
VOCAB = 6


@pytest.fixture(scope="module")
def model(make_model):
    return make_model(vocab_size=VOCAB)


@pytest.fixture(scope="module")
def prompts(make_prompts):
    return make_prompts([3, 5, 2], total=5, vocab_size=VOCAB)


def _row(prompts, row, times):
    return type(prompts)(*(np.repeat(x[row : row + 1], times, axis=0) for x in prompts))


def _log_prob_of(log_softmax, next_logits, model, prompts, row, candidates, longest):
    """Log-probability of each token of each candidate answer, 0 behind its end."""
    added = np.full((len(candidates), longest), PAD, np.int32)
    for i, candidate in enumerate(candidates):
        added[i, : len(candidate)] = candidate
    logits = next_logits(model, _row(prompts, row, len(candidates)), added)[:, :longest]
    values = np.take_along_axis(log_softmax(logits), added[..., None], axis=-1)[..., 0]
    real = np.arange(longest) < np.array([[len(c)] for c in candidates])
    return np.where(real, values, 0.0)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_wide_beams_equal_brute_force(penalty, model, prompts, next_logits, log_softmax):
    longest = 3
    others = [t for t in range(VOCAB) if t != EOS]
    candidates = [
        (*head, EOS) for n in range(longest) for head in itertools.product(others, repeat=n)
    ] + list(itertools.product(others, repeat=longest))
    config = DecodeConfig("beam", longest, num_beams=25, length_penalty=penalty)
    answers = Decoder(model, config, eos_id=EOS, pad_id=PAD)(*prompts)
    for row in range(len(prompts.tokens)):
        each = _log_prob_of(log_softmax, next_logits, model, prompts, row, candidates, longest)
        lengths = np.array([len(c) for c in candidates])
        best = int(np.argmax(each.sum(axis=1) / lengths**penalty))
        expected = np.pad(candidates[best], (0, longest - lengths[best]), constant_values=PAD)
        np.testing.assert_array_equal(answers.tokens[row], expected)
        np.testing.assert_allclose(answers.log_probs[row], each[best], atol=1e-5)
        assert answers.lengths[row] == lengths[best]


def _plain_beam_search(next_log_probs, width, longest, penalty):
    """One row, lists, no early stop; next_log_probs: list of answers -> [n, V]."""
    live, finished = [((), 0.0)], []
    for _ in range(longest):
        table = next_log_probs([tokens for tokens, _ in live])
        grown = [
            ((*tokens, t), total + table[i, t])
            for i, (tokens, total) in enumerate(live)
            for t in range(VOCAB)
        ]
        finished += [answer for answer in grown if answer[0][-1] == EOS]
        live = sorted((a for a in grown if a[0][-1] != EOS), key=lambda a: -a[1])[:width]
    return max(finished + live, key=lambda a: a[1] / len(a[0]) ** penalty)


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0, -0.5])
def test_narrow_beams_equal_a_plain_search(penalty, model, prompts, next_logits, log_softmax):
    width, longest = 2, 6
    config = DecodeConfig("beam", longest, num_beams=width, length_penalty=penalty)
    answers = Decoder(model, config, eos_id=EOS, pad_id=PAD)(*prompts)
    for row in range(len(prompts.tokens)):

        def next_log_probs(answers, row=row):
            count = len(answers[0])
            added = np.full((width, longest), PAD, np.int32)  # one shape, compiled once
            added[: len(answers), :count] = answers
            logits = next_logits(model, _row(prompts, row, width), added)
            return log_softmax(logits[: len(answers), count])

        tokens, total = _plain_beam_search(next_log_probs, width, longest, penalty)
        length = int(answers.lengths[row])
        assert tuple(answers.tokens[row, :length].tolist()) == tokens
        assert (answers.tokens[row, length:] == PAD).all()
        np.testing.assert_allclose(answers.log_prob[row], total, atol=1e-4)


def test_finds_more_probable_answers_than_greedy(model, prompts):
    greedy = Decoder(model, DecodeConfig(max_new_tokens=6), eos_id=EOS)(*prompts)
    config = DecodeConfig("beam", 6, num_beams=8, length_penalty=0.0)
    beam = Decoder(model, config, eos_id=EOS)(*prompts)
    assert (beam.log_prob >= greedy.log_prob - 1e-5).all()
    assert (beam.log_prob > greedy.log_prob + 1e-3).any()


def test_one_token(model, prompts, next_logits):
    config = DecodeConfig("beam", 1, num_beams=2)
    answers = Decoder(model, config, eos_id=EOS)(*prompts)
    empty = np.zeros((len(prompts.tokens), 0), np.int32)
    best = next_logits(model, prompts, empty)[:, 0].argmax(axis=-1)
    np.testing.assert_array_equal(answers.tokens[:, 0], best)
