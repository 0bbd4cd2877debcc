"""Leaves out answers that are longer than a model's text may be, and shows how long answers are."""

import collections
import dataclasses
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medjax.data.loc_tokens import EXTRA_REGEX
from medjax.data.medical.conditioning.settings import Settings
from medjax.data.medical.conditioning.step import Report, drop_questions
from medjax.data.medical.record import Question, Record
from medjax.data.tokenizer import Tokenizer

MARKS = (128, 256, 512)  # text lengths that models of this kind are trained with
# A loc or seg token, a character of a script without spaces, a word of another, a mark.
_SPACELESS = "\u3040-\u30ff\u3400-\u9fff"
_WORD_OR_MARK = re.compile(rf"{EXTRA_REGEX.pattern}|[{_SPACELESS}]|[^\W{_SPACELESS}]+|[^\w\s]")


@dataclasses.dataclass(frozen=True)
class Counter:
    """How tokens are counted.

    Attributes:
      count: tokens of a text.
      what: is counted, in words.
      fingerprint: of the tokenizer's file, "" without one.
    """

    count: Callable[[str], int]
    what: str
    fingerprint: str = ""


def counter(tokenizer: str) -> Counter:
    """Counts by a sentencepiece file; without one, words and punctuation marks.

    Raises:
      UserError: there is no such file, or it is no tokenizer.
    """
    if not tokenizer:
        return Counter(
            lambda text: sum(1 for _ in _WORD_OR_MARK.finditer(text)), "words and punctuation marks"
        )
    loaded = Tokenizer.load(Path(tokenizer).expanduser())
    return Counter(
        lambda text: len(loaded.encode(text, allow_special=True)), "tokens", loaded.fingerprint
    )


def step(records: Sequence[Record], settings: Settings) -> tuple[list[Record], Report]:
    """Drops answers of more than `settings.max_answer_tokens`.

    The report's figures: `counted` (what a token is), `tokenizer` (its checksum), `histogram` of
    all answers (`from` and `to`, both included, doubling, and `answers`), `longer_than` each of
    `MARKS`, `longest`, and `tasks` (answers, median, longest, dropped).
    """
    most = settings.max_answer_tokens
    count = counter(settings.tokenizer)
    lengths: dict[tuple[str, str], int] = {}
    by_task: dict[str, list[int]] = {}
    for record in records:
        for question in record.questions:
            length = count.count(question.answer)
            lengths[record.id, question.id] = length
            by_task.setdefault(question.task, []).append(length)

    def why(record: Record, question: Question) -> str:
        return f"more than {most} {count.what}" if lengths[record.id, question.id] > most else ""

    kept, dropped, cases = drop_questions(records, why)
    return kept, Report(
        "max_answer_tokens",
        f"Drops answers of more than {most} {count.what}"
        + (", as the model’s tokenizer has them." if count.fingerprint else "."),
        dropped,
        cases=cases,
        figures=_figures(by_task, most, count),
    )


def _figures(by_task: dict[str, list[int]], most: int, count: Counter) -> dict[str, Any]:
    every = [length for of_task in by_task.values() for length in of_task]
    return {
        "counted": count.what,
        "tokenizer": count.fingerprint,
        "limit": most,
        "histogram": histogram(every),
        "longer_than": {str(mark): sum(n > mark for n in every) for mark in MARKS},
        "longest": max(every, default=0),
        "tasks": {
            task: {
                "answers": len(of_task),
                "median": statistics.median_low(of_task),
                "longest": max(of_task),
                "dropped": sum(n > most for n in of_task),
            }
            for task, of_task in sorted(by_task.items())
        },
    }


def histogram(lengths: Sequence[int]) -> list[dict[str, int]]:
    """How many lengths lie in 0..1, 2..2, 3..4, 5..8, ...: `MARKS` are ends of bins."""
    # The bin of n > 1 ends at the next power of two.
    found = collections.Counter(max(n - 1, 0).bit_length() for n in lengths)
    last = max(*found, *(mark.bit_length() - 1 for mark in MARKS)) if found else -1
    return [
        {"from": 2 ** (i - 1) + 1 if i else 0, "to": 2**i, "answers": found[i]}
        for i in range(last + 1)
    ]
