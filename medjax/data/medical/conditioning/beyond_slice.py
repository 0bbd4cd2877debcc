"""Leaves out questions that nobody can answer from one slice.

An image of a model's is one slice of one series at one time. How large a mass is, whether it grew,
how it looked before contrast, and what the patient complains of are not in it: whoever answers has
guessed, and a model that is trained on such pairs learns to guess. `beyond_slice.json` lists how
such questions are asked in English, by the reason for which they go. What stays: what is seen,
where, how it looks, and what is large or small beside something else in the same image.
"""

import collections
import functools
import re
from collections.abc import Sequence

from medjax.data.medical.conditioning.settings import Settings
from medjax.data.medical.conditioning.step import Report, drop_questions
from medjax.data.medical.conditioning.words import first_match, patterns
from medjax.data.medical.record import Question, Record

_LANGUAGE = "en"
# What a question takes for granted, it does not ask: "Given a history of trauma, what is seen?"
_GIVEN = re.compile(
    r"^(given|considering|in view of|in light of|based on|knowing)\b[^,?]*,\s*", re.IGNORECASE
)
# "3.2 cm", "5 x 4 x 3 mm", "about 2 by 3 centimetres".
_SIZE = r"[0-9]+(?:[.,][0-9]+)?(?:\s*(?:x|×|by|-|to)\s*[0-9]+(?:[.,][0-9]+)?)*"
_MEASUREMENT = re.compile(
    rf"\b{_SIZE}\s*-?\s*(?:mm|cm|ml|cc|hu|millimet(?:er|re)s?|centimet(?:er|re)s?)\b", re.IGNORECASE
)
_ABOUT = re.compile(
    r"\b(about|approximately|approx|around|nearly|roughly|measures|measuring|in|it|is|the|diameter|"
    r"size|length|width|height|by|and|x|a|of|ap|tr|cc|greatest|maximum|dimensions?)\b",
    re.IGNORECASE,
)


@functools.lru_cache(maxsize=4096)  # many datasets ask the same of every image
def cannot_answer(question: str) -> str:
    """Why one slice cannot answer an English question, in a few words; "" if it can."""
    return first_match(_GIVEN.sub("", question), patterns("beyond_slice.json"))


def is_measurement(answer: str) -> bool:
    """Whether an answer gives a measurement and says nothing else."""
    rest, found = _MEASUREMENT.subn(" ", answer)
    return bool(found) and not re.search(r"\w", _ABOUT.sub(" ", rest))


def step(records: Sequence[Record], settings: Settings) -> tuple[list[Record], Report]:
    """Drops them, and counts how many of the answers left mention a measurement."""
    del settings
    kept, dropped, cases = drop_questions(records, _why)
    left = [q for record in kept for q in record.questions]
    others = collections.Counter(q.language for q in left if q.language != _LANGUAGE)
    mention = sum(1 for q in left if _MEASUREMENT.search(q.answer))
    warnings = tuple(
        f"{count} questions are in the language {language!r}: what one slice cannot answer is "
        "known in English only, they were kept."
        for language, count in sorted(others.items())
    )
    return kept, Report(
        "beyond_slice",
        "Drops questions that one slice cannot answer: measurements, extent in three dimensions, "
        "change over time, other series, and whatever only the patient’s history tells.",
        dropped,
        cases=cases,
        figures={"answers_kept_that_mention_a_measurement": mention},
        warnings=warnings,
    )


def _why(record: Record, question: Question) -> str:
    del record
    if question.form != "answer" or question.language != _LANGUAGE:
        return ""
    if question.task == "history":  # however it is asked
        return "history"
    if reason := cannot_answer(question.question):
        return reason
    return "measurement" if is_measurement(question.answer) else ""
