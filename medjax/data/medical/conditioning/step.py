"""What a step of conditioning is: records in, records out, and a report of what it did."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from medjax.data.medical.conditioning.settings import Settings
from medjax.data.medical.record import Question, Record

SHOWN = 12  # cases that a report shows of a step


@dataclasses.dataclass(frozen=True)
class Case:
    """Something that a step dropped, changed or added, for people to look at.

    Attributes:
      record: of its image, which the page shows.
      text: what it is about, such as the question and its answer.
      why: in a few words; what is counted.
      other: the second image of a suspected pair.
    """

    record: Record
    text: str
    why: str
    other: Record | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """What a step did.

    Attributes:
      name: of the step, also of the setting that governs it.
      does: what it does, in a sentence.
      dropped: questions (or, where `unit` says so, images or cases) by reason.
      unit: what `dropped` counts.
      changed: images or questions that were changed or added, by what was done to them.
      cases: at most `SHOWN` of them, the first of each reason before the second of any.
      figures: whatever else is to be known, ready for JSON: histograms, sizes of splits, ...
      warnings: sentences that the user must read.
    """

    name: str
    does: str
    dropped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    unit: str = "questions"
    changed: Mapping[str, int] = dataclasses.field(default_factory=dict)
    cases: tuple[Case, ...] = ()
    figures: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()


# (records, settings) -> (records, report); never called when its setting is off.
Step = Callable[[Sequence[Record], Settings], tuple[list[Record], Report]]


def drop_questions(
    records: Sequence[Record], why: Callable[[Record, Question], str]
) -> tuple[list[Record], dict[str, int], tuple[Case, ...]]:
    """Leaves out questions.

    Args:
      records: in their order; a record that has no question left stays, without any.
      why: the reason to drop a question, in a few words; "" keeps it.

    Returns:
      The records; how many questions were dropped by reason; the cases to show.
    """
    counts: dict[str, int] = {}
    cases: dict[str, list[Case]] = {}
    kept = []
    for record in records:
        left = []
        for question in record.questions:
            if not (reason := why(record, question)):
                left.append(question)
                continue
            counts[reason] = counts.get(reason, 0) + 1
            shown = cases.setdefault(reason, [])
            if len(shown) < SHOWN:
                text = f"{question.question or question.form} — {question.answer}"
                shown.append(Case(record, text, reason))
        unchanged = len(left) == len(record.questions)
        kept.append(record if unchanged else dataclasses.replace(record, questions=tuple(left)))
    return kept, dict(sorted(counts.items())), pick(cases)


def pick(cases: Mapping[str, Sequence[Case]]) -> tuple[Case, ...]:
    """At most `SHOWN` cases, the first of each reason before the second of any."""
    longest = max(map(len, cases.values()), default=0)
    turns = (
        of_reason[i] for i in range(longest) for of_reason in cases.values() if i < len(of_reason)
    )
    return tuple(case for case, _ in zip(turns, range(SHOWN), strict=False))
