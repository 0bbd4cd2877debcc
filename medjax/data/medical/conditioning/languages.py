"""Keeps the questions of some languages only."""

from collections.abc import Sequence

from medjax.data.medical.conditioning.settings import Settings
from medjax.data.medical.conditioning.step import Report, drop_questions
from medjax.data.medical.record import Record


def step(records: Sequence[Record], settings: Settings) -> tuple[list[Record], Report]:
    """Drops the questions of languages that `settings.languages` does not list."""
    kept, dropped, cases = drop_questions(
        records,
        lambda _, question: (
            "" if question.language in settings.languages else f"language {question.language}"
        ),
    )
    warnings: tuple[str, ...] = ()
    if records and not any(record.questions for record in kept):
        warnings = (f"No question is in {' or '.join(settings.languages)}.",)
    does = f"Keeps questions in these languages only: {', '.join(settings.languages)}."
    return kept, Report("languages", does, dropped, cases=cases, warnings=warnings)
