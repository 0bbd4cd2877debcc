"""The one place that knows what a prompt looks like to the model.

    tokens      <bos> what plane ? \\n  axial <eos> <pad> <pad>
    mask_ar       0    0    0   0  0    1     1     1     1     0: seen by all before it too
    mask_loss     0    0    0   0  0    1     1     0     0     1: to be predicted
    mask_input    1    1    1   1  1    1     1     0     0     1: not padding

The image and the prefix see each other fully; the suffix is causal. The model reads
`tokens[:, :-1]` and predicts `tokens[:, 1:]`. Prefix, newline and suffix are tokenized apart, so
that the newline is always a token of its own. Source: google-research/big_vision (pp/ops_text.py
and pp/proj/paligemma/ops.py); the PaliGemma report, arXiv:2407.07726.

Decisions. White space at the end of prefix and suffix is dropped, since files are full of it and a
model would learn it; nothing else of the text is altered, its case included. An empty suffix is
an example without an answer: no loss anywhere, not even on <eos>.

A text that is too long loses tokens in this order: the end of the suffix, with its <eos>, so that
no model learns to stop in mid-sentence; then, if <bos>, prefix and newline alone do not fit, the
end of the prefix. The newline always survives. `Packed.truncated` says that something was lost.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from medjax.data.example import Example
from medjax.data.tokenizer import Tokenizer
from medjax.errors import UserError


class Packed(NamedTuple):
    """One prompt as arrays of the same length T; see the module's drawing."""

    tokens: Int32[np.ndarray, "T"]
    mask_ar: Int32[np.ndarray, "T"]
    mask_loss: Int32[np.ndarray, "T"]
    mask_input: Int32[np.ndarray, "T"]
    truncated: bool


def pack_ids(
    prefix: Sequence[int],
    suffix: Sequence[int],
    length: int,
    *,
    bos_id: int,
    eos_id: int,
    newline_id: int,
    pad_id: int = 0,
) -> Packed:
    """Packs token ids.

    Args:
      prefix: ids of what is asked, without bos and newline.
      suffix: ids of the answer, without eos; empty for no answer and no loss.
      length: T, in tokens; 2 at least.
      bos_id, eos_id, newline_id, pad_id: the tokenizer's.

    Returns:
      int32 arrays of `length` tokens.

    Raises:
      UserError: `length` has no room for bos and newline.
    """
    if length < 2:
        raise UserError(f"A text length of {length} tokens has no room for <bos> and the newline.")
    asked = [bos_id, *prefix[: length - 2], newline_id]
    answer = [*suffix, eos_id] if len(suffix) else []
    fits = len(prefix) + 2 + len(answer) <= length
    if not fits:
        answer = list(suffix[: length - len(asked)])

    used = len(asked) + len(answer)
    position = np.arange(length)
    tokens = np.full(length, pad_id, np.int32)
    tokens[:used] = asked + answer
    return Packed(
        tokens=tokens,
        mask_ar=(position >= len(asked)).astype(np.int32),
        mask_loss=((position >= len(asked)) & (position < used)).astype(np.int32),
        mask_input=(position < used).astype(np.int32),
        truncated=not fits,
    )


def pack(
    tokenizer: Tokenizer, prefix: str, suffix: str, length: int, *, loc_in_prefix: bool = True
) -> Packed:
    """Packs a question and its answer.

    Args:
      tokenizer: of the model.
      prefix: what is asked; loc and seg tokens in it count as such if `loc_in_prefix` ("describe
        <loc0010>..."), else they are ordinary characters.
      suffix: the answer, in which loc and seg tokens always count as such; "" for none.
      length: T, in tokens.
      loc_in_prefix: whether `prefix` may point at places.

    Raises:
      UserError: `length` is below 2, or a text is not valid Unicode.
    """
    return pack_ids(
        *_encode(tokenizer, prefix, suffix, loc_in_prefix),
        length,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        newline_id=tokenizer.newline_id,
        pad_id=tokenizer.pad_id,
    )


def pack_prompt(
    tokenizer: Tokenizer, prefix: str, length: int, *, loc_in_prefix: bool = True
) -> Packed:
    """Packs a question for the model to answer: `pack` without a suffix."""
    return pack(tokenizer, prefix, "", length, loc_in_prefix=loc_in_prefix)


class TextTransform:
    """Maps an Example to its packed text.

    Attributes:
      tokenizer: of the model.
      text_length: T, in tokens.
    """

    def __init__(self, tokenizer: Tokenizer, text_length: int, *, loc_in_prefix: bool = True):
        self.tokenizer = tokenizer
        self.text_length = text_length
        self._loc_in_prefix = loc_in_prefix

    def __call__(self, example: Example) -> Packed:
        """Packs the example's prefix and suffix.

        Raises:
          UserError: the text is not valid Unicode.
        """
        return pack(
            self.tokenizer,
            example.prefix,
            example.suffix,
            self.text_length,
            loc_in_prefix=self._loc_in_prefix,
        )

    def tokens_needed(self, example: Example, *, answer: bool = True) -> int:
        """How many tokens the example's text takes, bos, newline and eos included.

        Without its answer it is the prompt alone.
        """
        suffix = example.suffix if answer else ""
        ids = _encode(self.tokenizer, example.prefix, suffix, self._loc_in_prefix)
        return _tokens_needed(*ids)


def _encode(
    tokenizer: Tokenizer, prefix: str, suffix: str, loc_in_prefix: bool
) -> tuple[list[int], list[int]]:
    return (
        tokenizer.encode(prefix.rstrip(), allow_special=loc_in_prefix),
        tokenizer.encode(suffix.rstrip(), allow_special=True),
    )


def _tokens_needed(prefix: Sequence[int], suffix: Sequence[int]) -> int:
    return 2 + len(prefix) + (len(suffix) + 1 if suffix else 0)
