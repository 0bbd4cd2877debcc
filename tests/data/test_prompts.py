"""Prompts are packed as big_vision packs them, and truncation never teaches a wrong ending."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import agreement
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medjax.data.example import Example
from medjax.data.prompts import TextTransform, pack, pack_ids, pack_prompt
from medjax.data.tokenizer import train_tokenizer
from medjax.errors import UserError

BOS, EOS, NEWLINE = 2, 1, 108
GEMMA = {"bos_id": BOS, "eos_id": EOS, "newline_id": NEWLINE}
SETS = [
    folder
    for folder in agreement.recorded_sets()
    if {"bos", "eos", "newline"} <= json.loads((folder / "config.json").read_text()).keys()
]

token_ids = st.lists(st.integers(4, 300).filter(lambda i: i != NEWLINE), max_size=12)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    texts = ["detect brain", "answer en which plane is this?", "axial", "abc xyz"]
    return train_tokenizer(texts, tmp_path_factory.mktemp("tokenizer") / "tokenizer.model", 300)


def example(prefix, suffix="", id="e"):
    return Example(id=id, pixels=np.zeros((2, 2, 3), np.uint8), prefix=prefix, suffix=suffix)


def test_there_are_reference_sets():
    assert SETS


@pytest.mark.parametrize("folder", SETS, ids=agreement.label)
def test_packs_as_the_reference(folder):
    config = json.loads((folder / "config.json").read_text())
    ids = {f"{name}_id": config[name] for name in ("bos", "eos", "newline")}
    with np.load(folder / "io.npz") as io:
        texts, prompts = io["text"], io["prompt_text"]
        for row, text in enumerate(texts.tolist()):
            newline, eos = text.index(config["newline"]), text.index(config["eos"])
            prefix, suffix = text[1:newline], text[newline + 1 : eos]
            packed = pack_ids(prefix, suffix, len(text), **ids)
            np.testing.assert_array_equal(packed.tokens, io["text"][row])
            np.testing.assert_array_equal(packed.mask_ar, io["mask_ar"][row])
            np.testing.assert_array_equal(packed.mask_loss, io["mask_loss"][row])
            np.testing.assert_array_equal(packed.mask_input, io["mask_input"][row])

            prompt = pack_ids(prefix, [], prompts.shape[1], **ids)
            np.testing.assert_array_equal(prompt.tokens, prompts[row])
            np.testing.assert_array_equal(prompt.mask_ar, io["prompt_mask_ar"][row])
            np.testing.assert_array_equal(prompt.mask_input, io["prompt_mask_input"][row])
            assert not prompt.mask_loss.any()


@given(prefix=token_ids, suffix=token_ids, spare=st.integers(0, 5))
def test_what_fits_is_packed_whole(prefix, suffix, spare):
    whole = [BOS, *prefix, NEWLINE] + ([*suffix, EOS] if suffix else [])
    packed = pack_ids(prefix, suffix, len(whole) + spare, **GEMMA)
    assert not packed.truncated
    assert packed.tokens.tolist() == whole + [0] * spare
    assert all(a.dtype == np.int32 for a in packed[:4])
    rows = zip(*(a.tolist() for a in packed[:4]), strict=True)
    for position, (_, ar, loss, inside) in enumerate(rows):
        in_prefix = position < len(prefix) + 2
        padding = position >= len(whole)
        assert (ar, loss, inside) == (
            (0, 0, 1) if in_prefix else (1, 0, 0) if padding else (1, 1, 1)
        )


@given(prefix=token_ids, suffix=token_ids, length=st.integers(2, 26))
def test_truncation_keeps_the_newline_and_cuts_the_suffix_first(prefix, suffix, length):
    packed = pack_ids(prefix, suffix, length, **GEMMA)
    whole = [BOS, *prefix, NEWLINE] + ([*suffix, EOS] if suffix else [])
    tokens = packed.tokens.tolist()
    assert len(tokens) == length
    assert packed.truncated == (len(whole) > length)
    assert tokens.count(NEWLINE) == 1
    if packed.truncated:
        newline = min(len(prefix) + 1, length - 1)
        assert tokens == [*whole[:newline], NEWLINE, *whole[len(prefix) + 2 :]][:length]
        assert EOS not in tokens
        assert packed.mask_input.all()
    # The loss covers everything after the newline that is not padding, and nothing else.
    after = np.arange(length) > tokens.index(NEWLINE)
    np.testing.assert_array_equal(packed.mask_loss, after & (packed.mask_input == 1))
    np.testing.assert_array_equal(packed.mask_ar, after)


def test_a_suffix_whose_eos_does_not_fit_counts_as_cut():
    assert pack_ids([5], [6, 7], 6, **GEMMA).tokens.tolist() == [2, 5, 108, 6, 7, 1]
    cut = pack_ids([5], [6, 7], 5, **GEMMA)
    assert cut.truncated
    assert cut.tokens.tolist() == [2, 5, 108, 6, 7]


def test_no_room_is_an_error():
    with pytest.raises(UserError, match="no room"):
        pack_ids([], [], 1, **GEMMA)


def test_pack_by_hand(tokenizer):
    t = tokenizer
    packed = pack(t, "detect brain", "axial", 40)
    question, answer = t.encode("detect brain"), t.encode("axial")
    used = [t.bos_id, *question, t.newline_id, *answer, t.eos_id]
    assert packed.tokens.tolist() == used + [t.pad_id] * (40 - len(used))
    assert packed.mask_loss.sum() == len(answer) + 1


def test_trailing_space_is_dropped_and_nothing_else(tokenizer):
    clean = pack(tokenizer, "  Detect\n\nBRAIN", " Axial", 40)
    untidy = pack(tokenizer, "  Detect\n\nBRAIN \n", " Axial\n", 40)
    np.testing.assert_array_equal(clean.tokens, untidy.tokens)
    assert tokenizer.decode(clean.tokens) == "  Detect\n\nBRAIN\n Axial"


@pytest.mark.parametrize("suffix", ["", " \n"])
def test_no_suffix_means_no_loss_and_no_eos(tokenizer, suffix):
    packed = pack(tokenizer, "detect brain", suffix, 20)
    assert not packed.mask_loss.any()
    assert tokenizer.eos_id not in packed.tokens
    prompt = pack_prompt(tokenizer, "detect brain", 20)
    for ours, theirs in zip(packed, prompt, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_typed_control_pieces_are_text(tokenizer):
    packed = pack(tokenizer, "<bos><eos><image>", "<eos>yes<pad>", 80)
    tokens = packed.tokens.tolist()
    assert tokens.count(tokenizer.bos_id) == 1
    assert tokens.count(tokenizer.eos_id) == 1
    assert tokens.index(tokenizer.eos_id) == packed.mask_input.sum() - 1


def test_loc_in_prefix_only_where_allowed(tokenizer):
    loc = tokenizer.loc_ids[10]
    assert loc in pack(tokenizer, "describe <loc0010>", "x", 40).tokens
    strict = pack(tokenizer, "describe <loc0010>", "<loc0011>", 40, loc_in_prefix=False)
    assert loc not in strict.tokens
    assert loc + 1 in strict.tokens
    assert loc not in pack_prompt(tokenizer, "describe <loc0010>", 40, loc_in_prefix=False).tokens


def test_threads_and_processes_share_a_transform(tokenizer):
    transform = TextTransform(tokenizer, 12)
    examples = [example("detect brain", "abc xyz " * (i % 2 * 9)) for i in range(400)]
    with ThreadPoolExecutor(8) as pool:
        packed = list(pool.map(transform, examples))
    assert [p.truncated for p in packed] == [False, True] * 200
    again = pickle.loads(pickle.dumps(transform))(examples[1])
    np.testing.assert_array_equal(again.tokens, packed[1].tokens)


@given(
    length=st.integers(2, 30), prefix=st.text("ab ", max_size=9), suffix=st.text("xy", max_size=9)
)
def test_tokens_needed_is_the_least_length_that_fits(tokenizer, length, prefix, suffix):
    transform = TextTransform(tokenizer, length)
    item = example(prefix, suffix)
    assert transform(item).truncated == (transform.tokens_needed(item) > length)
    prompt = transform(example(prefix))
    assert prompt.truncated == (transform.tokens_needed(item, answer=False) > length)
