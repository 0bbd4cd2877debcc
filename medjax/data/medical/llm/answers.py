"""What a model must answer: JSON of a schema; what is wrong is said so that it can mend it.

The schema is JSON Schema, draft 2020-12; jsonschema (the extra `llm`) checks it.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from medjax.data.faults import BadExample
from medjax.data.json_lines_file import text_of
from medjax.errors import UserError

TYPES = ("closed", "open")

# Keywords that some endpoints refuse; the answer is checked against them all the same.
_LENGTHS = ("minLength", "maxLength", "minItems", "maxItems")
_SHOWN = 3  # faults that a model is told at once
# The image's reader has no text to look it up in.
_SPEAKS_OF_TEXT = re.compile(
    r"\b(captions?|according to|the (?:given |provided )?(?:text|description|report|facts))\b",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class Pair:
    """A question and its answer.

    Attributes:
      question: on one line.
      answer: on one line.
      answer_type: "closed" (yes, no, or one of the question's choices) or "open".
      task: one of the prompt's.
    """

    question: str
    answer: str
    answer_type: str
    task: str


def schema(tasks: Sequence[str], most: int) -> dict[str, Any]:
    """The JSON schema of an answer with at most `most` pairs of these tasks."""
    pair = {
        "type": "object",
        "properties": {
            "question": {"type": "string", "minLength": 5, "maxLength": 400},
            "answer": {"type": "string", "minLength": 1, "maxLength": 1000},
            "answer_type": {"type": "string", "enum": list(TYPES)},
            "task": {"type": "string", "enum": list(tasks)},
        },
        "required": ["question", "answer", "answer_type", "task"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"pairs": {"type": "array", "items": pair, "maxItems": most}},
        "required": ["pairs"],
        "additionalProperties": False,
    }


def without_lengths(value: Any) -> Any:
    """A schema as endpoints are sent it: they differ in which bounds they take."""
    if isinstance(value, dict):
        return {key: without_lengths(v) for key, v in value.items() if key not in _LENGTHS}
    return [without_lengths(item) for item in value] if isinstance(value, list) else value


def in_words(tasks: Sequence[str], most: int) -> str:
    """The schema in words, for models that are not held to it, and those that are."""
    return (
        "Answer with one JSON object and nothing else, of this form:\n"
        '{"pairs": [{"question": "...", "answer": "...", "answer_type": "...", "task": "..."}]}\n'
        f'"pairs" has at most {most} items, and may be empty. "answer_type" is "closed" or "open". '
        f'"task" is one of {", ".join(json.dumps(task) for task in tasks)}.'
    )


def read(text: str, finish: str, schema: dict[str, Any], language: str) -> tuple[Pair, ...]:
    """The pairs of a model's answer, all of them or none.

    Args:
      text: as the model wrote it; thoughts before it and a fence around it are taken off.
      finish: why the model stopped, as the endpoint says; "length": it was cut off.
      schema: that the answer must have.
      language: ISO 639-1; of English more is checked.

    Raises:
      BadExample: it can't be used; the message tells the model why.
      UserError: jsonschema is not installed.
    """
    if finish == "length":
        raise BadExample("cut off", "The answer is too long and was cut off: write fewer pairs.")
    try:
        value = json.loads(_bare(text), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadExample("not JSON", f"The answer is not JSON ({error}).") from error
    faults = sorted(_jsonschema().Draft202012Validator(schema).iter_errors(value), key=_path)
    if faults:
        told = "; ".join(f"at {f.json_path}: {_short(f.message)}" for f in faults[:_SHOWN])
        raise BadExample("not of the schema", f"The answer is not of the form asked for: {told}.")
    pairs = tuple(_pair(row) for row in value["pairs"])
    if complaints := list(_complaints(pairs, language)):
        raise BadExample("against the rules", " ".join(complaints[:_SHOWN]))
    return pairs


def _bare(text: str) -> str:
    text = re.sub(r"\A\s*<think>.*?</think>", "", text, flags=re.DOTALL).strip()
    fenced = re.fullmatch(r"```(?:json)?\s*\n(.*?)\n?\s*```", text, flags=re.DOTALL)
    return fenced[1] if fenced else text


def _pair(row: dict[str, str]) -> Pair:
    return Pair(**{key: " ".join(text_of(row, key).split()) for key in row})


def _complaints(pairs: Sequence[Pair], language: str) -> Iterator[str]:
    seen = set()
    for pair in pairs:
        if not pair.question or not pair.answer:
            yield "A question or an answer is blank."
        if (same := pair.question.casefold()) in seen:
            yield f"The question {pair.question!r} stands there twice."
        seen.add(same)
        if language != "en":
            continue
        if _SPEAKS_OF_TEXT.search(pair.question):
            yield f"The question {pair.question!r} speaks of a text; there is an image alone."
        if pair.answer_type == "closed" and not _is_closed(pair):
            yield (
                f'The answer to {pair.question!r} is neither "yes" nor "no" nor a choice that the '
                "question names, so it is not closed."
            )


def _is_closed(pair: Pair) -> bool:
    answer = pair.answer.casefold().rstrip(".")
    return answer in ("yes", "no") or answer in pair.question.casefold()


def _short(message: str) -> str:
    """The end of a message: it begins with what is wrong, however long, and ends with why."""
    return message if len(message) <= 200 else f"... {message[-200:]}"


def _path(fault: Any) -> str:
    return fault.json_path


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _jsonschema() -> Any:
    try:
        import jsonschema
    except ImportError as error:
        raise UserError(
            "Checking a model's answers needs jsonschema: pip install -e '.[llm]'."
        ) from error
    return jsonschema
