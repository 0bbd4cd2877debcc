"""The rules of 4M's masking, read off from what comes out."""

import dataclasses
import functools

import chex
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from masking_schemes import PAD, SCHEMES, SENTINELS, compiled, samples
from medjax_kernels.attention import allowed
from medjax_kernels.masking import Masked, MaskingScheme, Modality, masking
from medjax_kernels.masking.scheme import KEEPS


def many(name: str, count: int = 400):
    """A large batch, and what masking makes of it, as NumPy arrays."""
    scheme = SCHEMES[name]
    arguments = samples(scheme, count, seed=11)
    tokens, lengths, chunks = jax.device_get((*arguments[:2], arguments[3]))
    out = jax.device_get(compiled(name, "xla")(*arguments))
    return scheme, tokens, all_lengths(scheme, lengths, count), chunks, out


def all_lengths(scheme: MaskingScheme, lengths, count: int) -> dict[str, np.ndarray]:
    return {m.name: lengths.get(m.name, np.full(count, m.max_tokens)) for m in scheme.modalities}


def sides(scheme: MaskingScheme, out: Masked):
    yield "input_alphas", scheme.input_tokens, out.input_counts
    yield "target_alphas", scheme.target_tokens, out.target_counts


def check_budgets(scheme: MaskingScheme, lengths, out: Masked) -> None:
    """No budget is exceeded, no cap, and nothing is where no alpha is."""
    for side, span, counts in sides(scheme, out):
        if span is not None:
            assert counts.sum(axis=1).max() <= span[1]
        for i, m in enumerate(scheme.modalities):
            if m.kind == "image":
                assert (counts[:, i] <= lengths[m.name]).all()
            elif span is not None:
                assert counts[:, i].max() <= m.max_tokens
            if span is not None and not any(getattr(m, side)):
                assert counts[:, i].max() == 0


def modality_tokens(packed, i: int, row: int) -> np.ndarray:
    """Which slots of a row have one modality's tokens."""
    return packed.valid[row] & (packed.modality[row] == i)


def check_images(scheme: MaskingScheme, tokens, lengths, out: Masked) -> None:
    """No token is both input and target; ids and positions belong together."""
    for row in range(len(out.input_counts)):
        for i, m in enumerate(scheme.modalities):
            if m.kind != "image":
                continue
            mine = modality_tokens(out.encoder, i, row)
            theirs = modality_tokens(out.decoder, i, row)
            taken = np.concatenate(
                [out.encoder.positions[row, mine], out.decoder.positions[row, theirs]]
            )
            assert len(set(taken)) == len(taken)
            assert len(taken) == 0 or taken.max() < lengths[m.name][row]
            assert (np.diff(out.encoder.positions[row, mine]) > 0).all()
            assert (np.diff(out.decoder.positions[row, theirs]) > 0).all()
            if scheme.target_tokens is None:
                assert len(taken) == lengths[m.name][row]
            if m.name in tokens:
                ids = np.concatenate(
                    [out.encoder.tokens[row, mine], out.decoder.targets[row, theirs]]
                )
                np.testing.assert_array_equal(ids, tokens[m.name][row, taken])


def spans_of(ids: list[int]) -> dict[int, list[int]]:
    """What follows each sentinel."""
    spans: dict[int, list[int]] = {}
    for token in ids:
        if token in SENTINELS:
            spans[token] = []
        else:
            spans[next(reversed(spans))].append(token)
    return spans


def check_sequences(scheme: MaskingScheme, tokens, lengths, out: Masked) -> tuple[int, int]:
    """A sequence is put together again from input and target spans.

    Of a target that was cut, a part of the spans is left: it begins at a sentinel, all its spans
    but the last are whole, and the last one begins right.

    Returns:
      How many were whole, and how many cut.
    """
    whole = cut = 0
    for row in range(len(out.input_counts)):
        for i, m in enumerate(scheme.modalities):
            if m.kind != "sequence":
                continue
            sequence = (tokens[m.name][row, : lengths[m.name][row]] + m.vocab_offset).tolist()
            inputs = out.encoder.tokens[row, modality_tokens(out.encoder, i, row)].tolist()
            mine = modality_tokens(out.decoder, i, row)
            assert mine.sum() == max(out.target_counts[row, i] - 1, 0)
            if not mine.any():
                continue  # the sentinel alone, or nothing, which the decoder does not read
            target = [
                *out.decoder.tokens[row, mine][:1].tolist(),
                *out.decoder.targets[row, mine].tolist(),
            ]
            # The decoder reads what it predicted before.
            np.testing.assert_array_equal(out.decoder.tokens[row, mine], target[:-1])
            np.testing.assert_array_equal(out.decoder.positions[row, mine], range(len(target) - 1))
            if not inputs:  # no input budget: all is masked
                inputs = [SENTINELS[0]]
            sentinels = [token for token in inputs if token in SENTINELS]
            assert sentinels == list(SENTINELS[: len(sentinels)])
            spans = spans_of(target)
            if list(spans) == list(SENTINELS[: len(sentinels) + 1]) and not spans[target[-1]]:
                whole += 1
                parts = [spans[token] if token in SENTINELS else [token] for token in inputs]
                assert [token for part in parts for token in part] == sequence
                continue
            cut += 1
            numbers = [SENTINELS.index(token) for token in spans]
            assert numbers == list(range(numbers[0], numbers[-1] + 1))
            for token, span in spans.items():
                if not span:
                    continue
                begin = sequence.index(span[0])
                assert sequence[begin : begin + len(span)] == span
                if token != list(spans)[-1]:  # a whole span: what follows it is input, or the end
                    after = sequence[begin + len(span) :][:1]
                    assert inputs[inputs.index(token) + 1 :][:1] == after
    return whole, cut


@pytest.mark.parametrize("name", SCHEMES)
def test_budgets_are_never_exceeded(name):
    scheme, _, lengths, _, out = many(name)
    check_budgets(scheme, lengths, out)
    # Something is there at all, of everything that an alpha allows.
    for side, span, counts in sides(scheme, out):
        for i, m in enumerate(scheme.modalities):
            assert counts[:, i].max() > 0 or not (span is None or any(getattr(m, side)))


@pytest.mark.parametrize("name", ["mixture", "rest"])
def test_no_token_of_an_image_is_input_and_target(name):
    scheme, tokens, lengths, _, out = many(name)
    check_images(scheme, tokens, lengths, out)


@pytest.mark.parametrize("name", ["mixture", "rest"])
def test_sequences_are_put_together_again(name):
    scheme, tokens, lengths, _, out = many(name)
    whole, cut = check_sequences(scheme, tokens, lengths, out)
    assert whole > 50
    assert cut > 20 if name == "mixture" else cut == 0


@st.composite
def schemes(draw) -> MaskingScheme:
    """Any mixture of one to four modalities; packed lengths hold everything."""
    components = draw(st.integers(1, 3))
    alpha = st.sampled_from([0.0, 0.01, 0.5, 1.0, 20.0])
    alphas = st.tuples(*[alpha] * components)
    modalities = []
    for i in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["image", "sequence"]))
        inputs, targets = draw(alphas), draw(alphas)
        if i == 0:  # some alpha of each component is positive
            inputs, targets = (tuple(a or 1.0 for a in side) for side in (inputs, targets))
        keep = tuple(draw(st.sampled_from(KEEPS)) for _ in range(components))
        size = draw(st.integers(1, 17))
        modalities.append(
            Modality(f"{kind} {i}", kind, size, inputs, targets, keep=keep, vocab_offset=i)
        )
    ends = st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda x: (min(x), max(x)))
    return MaskingScheme(
        tuple(modalities),
        draw(ends),
        draw(ends),
        encoder_length=30,
        decoder_length=30,
        sentinels=SENTINELS,
        pad=PAD,
        weights=draw(st.none() | st.just((1.0, 0.5, 2.0)[:components])),
    )


@settings(max_examples=6, deadline=None, derandomize=True)
@given(scheme=schemes(), seed=st.integers(0, 2**31 - 1))
def test_any_scheme(scheme, seed):
    tokens, lengths, keys, _ = samples(scheme, 16, seed)

    def run(implementation: str) -> Masked:
        function = functools.partial(masking, scheme, implementation=implementation)
        return jax.device_get(jax.jit(function)(tokens, lengths, keys))

    found = run("xla")
    chex.assert_trees_all_equal(found, run("reference"))
    tokens, lengths = jax.device_get((tokens, lengths))
    lengths = all_lengths(scheme, lengths, 16)
    check_budgets(scheme, lengths, found)
    check_images(scheme, tokens, lengths, found)
    check_sequences(scheme, tokens, lengths, found)


def test_zero_alphas_get_nothing():
    """In the second component of the mixture, only rgb and the word are input."""
    scheme = dataclasses.replace(SCHEMES["mixture"], weights=(0.0, 1.0, 0.0))
    tokens, lengths, keys, _ = samples(scheme, 400, seed=3, image_lengths=False)
    out = jax.jit(lambda *x: masking(scheme, *x))(tokens, lengths, keys)
    np.testing.assert_array_equal(out.input_counts[:, 1:4], 0)
    np.testing.assert_array_equal(out.target_counts[:, [0, 3]], 0)
    assert out.input_counts[:, 0].max() == 12


def test_floors():
    """Of full samples, at most those miss a floor that missed it six times in a row."""
    scheme = SCHEMES["floors"]
    tokens, _, keys, _ = samples(scheme, 400, seed=5)
    full = {m.name: jnp.full(400, m.max_tokens, jnp.int32) for m in scheme.modalities}
    often = dataclasses.replace(scheme, max_tries=100)
    once = dataclasses.replace(scheme, max_tries=1)

    def missed(scheme: MaskingScheme) -> float:
        out = jax.jit(lambda *x: masking(scheme, *x))(tokens, full, keys)
        return float(np.mean(out.input_counts[:, 1] < 2))

    assert missed(once) > 2 * missed(scheme) > 0
    assert missed(often) == 0


def test_chunks_are_masked_as_a_whole():
    _, tokens, lengths, chunks, out = many("rest")
    split = 0
    for row in range(len(out.input_counts)):
        mine = modality_tokens(out.encoder, 0, row)
        kept = np.isin(
            tokens["det"][row] + 100, out.encoder.tokens[row, mine]
        )[: lengths["det"][row]]  # fmt: skip
        numbers = chunks["det"][row, : lengths["det"][row]]
        for number in set(numbers):
            assert len(set(kept[numbers == number])) == 1
        split += 0 < kept.sum() < len(kept)
    assert split > 50


def test_attention_is_4ms():
    """Both ways within an image, causal in a sequence, nothing across."""
    _, _, _, _, out = many("mixture", 40)
    tokens = out.decoder.attention
    may = np.array(allowed(tokens, tokens))
    where = np.arange(may.shape[1])
    modality = out.decoder.modality
    causal = np.isin(modality, (2, 4))[:, :, None] & (where[None, :] > where[:, None])
    same = modality[:, :, None] == modality[:, None, :]
    valid = out.decoder.valid
    expected = same & ~causal & valid[:, :, None] & valid[:, None, :]
    np.testing.assert_array_equal(may, expected)
    assert causal[same].any()
    np.testing.assert_array_equal(out.encoder.attention.valid, out.encoder.valid)
