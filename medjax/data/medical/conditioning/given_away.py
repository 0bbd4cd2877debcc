"""Leaves out diagnosis questions whose answer stands in the image's caption.

A model that learns the captions as well learns such an answer by heart; asking for it again
measures, and teaches, no diagnosing.
"""

from collections.abc import Sequence

from medjax.data.medical.conditioning.settings import Settings
from medjax.data.medical.conditioning.step import Report, drop_questions
from medjax.data.medical.conditioning.words import holds, same
from medjax.data.medical.record import Question, Record

TASK = "diagnosis"
_WHY = "the caption names the diagnosis"


def names_diagnosis(caption: str, diagnosis: str) -> bool:
    """Whether the words of a diagnosis stand in a caption in a row; abbreviations do not count."""
    return holds(caption, diagnosis) or holds(caption, same(diagnosis))


def step(records: Sequence[Record], settings: Settings) -> tuple[list[Record], Report]:
    """Drops them where the image's caption, or what was made of it, is a question too."""
    del settings
    told = sum(_given_away(r, r.facts.get(TASK, "")) for r in records)
    kept, dropped, cases = drop_questions(records, _why)
    return kept, Report(
        "diagnosis_in_caption",
        "Drops diagnosis questions about images whose caption names the diagnosis, where the "
        "caption is learnt too.",
        dropped,
        cases=cases,
        figures={"images_whose_caption_names_the_diagnosis": told},
    )


def _why(record: Record, question: Question) -> str:
    if question.task != TASK or not any(_tells_caption(q) for q in record.questions):
        return ""
    answers = (question.answer, record.facts.get(TASK, ""))
    return _WHY if any(_given_away(record, answer) for answer in answers) else ""


def _given_away(record: Record, diagnosis: str) -> bool:
    return names_diagnosis(record.facts.get("caption", ""), diagnosis)


def _tells_caption(question: Question) -> bool:
    return question.form == "caption" or question.facts.get("source") == "caption"
