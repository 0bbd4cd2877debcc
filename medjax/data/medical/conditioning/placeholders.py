"""Leaves out captions and answers that say nothing, and facts that are none.

The texts are those that people left in forms: MedPix 2.0 has captions that begin "Replace this -
DESCRIPTION", places "Left Blank", histories "N/A" (arXiv:2407.02994, and the files themselves).
`placeholders.json` lists them. "None" and "no" are not among them: they are answers.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from medjax.data.medical.conditioning.settings import Settings
from medjax.data.medical.conditioning.step import Case, Report, drop_questions, pick
from medjax.data.medical.conditioning.words import first_match, patterns
from medjax.data.medical.record import Record

_SPACES = re.compile(r"\s+")
_EDGES = " \t\n.,;:!-–—*\"'`"


def says_nothing(text: str) -> str:
    """Why a text says nothing, in a few words; "" if it says something."""
    plain = _SPACES.sub(" ", text).strip(_EDGES)
    if not any(character.isalnum() for character in plain):
        return "empty"
    return first_match(plain, patterns("placeholders.json"))


def step(records: Sequence[Record], settings: Settings) -> tuple[list[Record], Report]:
    """Drops the questions whose answer says nothing, and takes away such facts."""
    del settings
    kept, dropped, cases = drop_questions(records, lambda _, q: says_nothing(q.answer))
    changed: dict[str, int] = {}
    of_facts: dict[str, list[Case]] = {}
    for i, record in enumerate(kept):
        facts, empty = _split(record.facts)
        if not empty:
            continue
        kept[i] = dataclasses.replace(record, facts=facts)
        for name, text in empty.items():
            why = f"fact taken away: {name}"
            changed[why] = changed.get(why, 0) + 1
            of_facts.setdefault(why, []).append(Case(record, f"{name} — {text}", why))
    by_reason = {case.why: [c for c in cases if c.why == case.why] for case in cases}
    return kept, Report(
        "placeholders",
        "Drops captions and answers that say nothing, such as “N/A” or “Replace this - …”, and "
        "forgets facts of that kind.",
        dropped,
        changed=dict(sorted(changed.items())),
        cases=pick(by_reason | of_facts),
    )


def _split(facts: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The facts that say something, and those that do not."""
    empty = {name: text for name, text in facts.items() if says_nothing(text)}
    return {name: text for name, text in facts.items() if name not in empty}, empty
