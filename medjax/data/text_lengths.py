"""Texts that are longer than a run's text_length: found by measuring, before it begins."""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence

from tqdm import tqdm

from medjax.data.example import Example
from medjax.data.faults import BadExample, FaultCounter
from medjax.data.prompts import TextTransform
from medjax.data.sources import Source
from medjax.errors import UserError

_log = logging.getLogger(__name__)

_PROGRESS_FROM = 10_000  # texts


class Selection:
    """Some examples of a source.

    Attributes:
      faults: the source's, and those for which the others were left out.
    """

    def __init__(self, source: Source, indices: Sequence[int], faults: Mapping[str, int]):
        self._source = source
        self._indices = indices
        self.faults: Mapping[str, int] = {**source.faults, **faults}

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Example:
        return self._source[self._indices[index]]


def long_texts(
    source: Source, text: TextTransform, *, answers: bool = True
) -> Iterator[tuple[int, int]]:
    """Index and tokens of each example whose question, with its answer or without, does not fit."""
    progress = tqdm(
        range(len(source)),
        desc="Measuring texts",
        file=sys.stderr,
        disable=len(source) <= _PROGRESS_FROM,
    )
    for index in progress:
        needed = text.tokens_needed(source[index], answer=answers)
        if needed > text.text_length:
            yield index, needed


def without_long_texts(
    name: str,
    source: Source,
    text: TextTransform,
    *,
    answers: bool = True,
    on_bad_example: str = "error",
) -> Source:
    """A source whose texts all fit: long ones are bad examples.

    Args:
      name: of the source, for messages.
      source: its texts are read, not its images.
      text: what is to pack them.
      answers: whether answers are packed, too.
      on_bad_example: "error" stops at the first, "skip" leaves them out and counts them.

    Raises:
      UserError: a text does not fit and the policy is to stop, or none fits.
    """
    counter = FaultCounter(on_bad_example)
    left_out = set()
    for index, needed in long_texts(source, text, answers=answers):
        example = source[index]
        counter.add(
            BadExample(
                "long text",
                f"{example.where}: the text of {example.id!r} takes {needed} tokens, text_length "
                f"is {text.text_length}. Raise text_length or set data.on_long_text=truncate.",
            )
        )
        left_out.add(index)
    if not left_out:
        return source
    if len(left_out) == len(source):
        raise UserError(f"{name} has no row to use ({counter.summary()}): raise text_length.")
    _log.warning(
        "%s: left out %d rows (%s), kept %d.",
        name, len(left_out), counter.summary(), len(source) - len(left_out),
    )  # fmt: skip
    kept = [index for index in range(len(source)) if index not in left_out]
    return Selection(source, kept, counter.counts)
