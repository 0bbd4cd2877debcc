"""Beginner's questions, made of what is known: modality, plane, place, normal or abnormal.

They are what a model learns first, as the alphabet before the diagnosis. Nothing is asked that the
dataset does not say; age and sex never, an image does not show them.
"""

import collections
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence

from medjax.data.medical.conditioning import terms
from medjax.data.medical.conditioning.settings import Settings
from medjax.data.medical.conditioning.step import Case, Report, pick
from medjax.data.medical.conditioning.words import table
from medjax.data.medical.record import Question, Record

LANGUAGE = "en"
# By task: the answer that facts give, "" where they give none.
TASKS: Mapping[str, Callable[[Mapping[str, str]], str]] = {
    "modality": terms.modality,
    "plane": terms.plane,
    "location": terms.location,
    "normal": terms.normal,
}
# The facts that a value comes from, for counting those that no way of writing is known of.
_LISTED = ("modality", "plane")


def step(records: Sequence[Record], settings: Settings) -> tuple[list[Record], Report]:
    """Adds a question of each of `TASKS` where its answer is known and none of that task is there.

    Whether an image is normal is asked only where the dataset has both kinds: else the answer is
    always the same. Nothing is added where `settings.languages` has no English.
    """
    does = "Adds questions about modality, plane, part of the body, and normal or abnormal."
    if settings.languages and LANGUAGE not in settings.languages:
        warning = "No question was added: they are English, and data.conditioning.languages is not."
        return list(records), Report("templates", does, warnings=(warning,))
    known = [{task: answer(record.facts) for task, answer in TASKS.items()} for record in records]
    kinds = {of_record["normal"] for of_record in known} - {""}
    warnings = []
    if len(kinds) == 1:
        only = kinds.pop()
        known = [{**of_record, "normal": ""} for of_record in known]
        warnings.append(
            f"Nothing is asked about normal or abnormal: as far as is known, every image is {only}."
        )
    added: collections.Counter[str] = collections.Counter()
    answers: dict[str, collections.Counter[str]] = {
        task: collections.Counter() for task in TASKS
    }  # fmt: skip
    cases: dict[str, list[Case]] = {}
    made = []
    for record, of_record in zip(records, known, strict=True):
        has = {question.task for question in record.questions}
        new = [_question(record, t, a) for t, a in of_record.items() if a and t not in has]
        made.append(dataclasses.replace(record, questions=(*record.questions, *new)))
        for question in new:
            added[question.task] += 1
            answers[question.task][question.answer] += 1
            text = f"{question.question} — {question.answer}"
            cases.setdefault(question.task, []).append(Case(record, text, question.task))
    unclear: dict[str, collections.Counter[str]] = {}
    for record, of_record in zip(records, known, strict=True):
        for task in _LISTED:
            if (text := record.facts.get(task, "")) and not of_record[task]:
                unclear.setdefault(task, collections.Counter())[text] += 1
    return made, Report(
        "templates",
        does,
        changed={f"question added: {task}": added[task] for task in TASKS if added[task]},
        cases=pick(cases),
        figures={
            "answers": {task: dict(_sorted(found)) for task, found in answers.items() if found},
            "facts_not_understood": {task: dict(_sorted(c)) for task, c in unclear.items()},
        },
        warnings=tuple(warnings),
    )


def _question(record: Record, task: str, answer: str) -> Question:
    phrasings = table("template_questions.json")[task]
    digest = hashlib.sha256(f"{record.id}\n{task}".encode()).digest()
    return Question(
        id=f"{record.id}/template/{task}",
        task=task,
        question=phrasings[int.from_bytes(digest[:8], "big") % len(phrasings)],
        answer=answer,
        language=LANGUAGE,
        mode="pre_training",
        origin="template",
        facts={"question_type": task, "answer_type": "closed" if task == "normal" else "open"},
    )


def _sorted(counts: collections.Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
