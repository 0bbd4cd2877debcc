"""The finished table: JSON lines, a pair a line, as `readers.question_table` reads them."""

import json
from collections.abc import Mapping
from pathlib import Path

from medjax.data.medical.llm.asker import Outcome
from medjax.data.medical.llm.messages import Asking
from medjax.data.medical.llm.plan import Plan
from medjax.files import write_whole

SPLITS = {"train": "Train", "validation": "Valid", "test": "Test"}


def rows(plan: Plan, outcomes: Mapping[str, Outcome], asking: Asking) -> list[dict[str, str]]:
    """A row for each pair, in the dataset's order; what is unknown of a record is left out.

    A question that another prompt's pairs ask about the same image already is not asked twice.
    """
    made = []
    asked: set[tuple[str, str]] = set()
    for record, prompt, key in plan.places:
        about = {
            "image_id": record.id,
            "case_id": record.patient,
            "split": SPLITS.get(record.split, ""),
        }
        for pair in outcomes[key].pairs:
            question = (record.id, pair.question.casefold())
            if question in asked:
                continue
            asked.add(question)
            row = about | {
                "mode": prompt.mode,
                "task": pair.task,
                "question": pair.question,
                "answer": pair.answer,
                "answer_type": pair.answer_type,
                "language": asking.language,
                "model": asking.model,
                "source": prompt.source,
                "prompt": prompt.label,
            }
            made.append({key: text for key, text in row.items() if text})
    return made


def write(path: Path, table: list[dict[str, str]]) -> None:
    """Writes a table, whole or not at all."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table)
    write_whole(path, lines.encode())
