"""A JSON file that holds a list of records, and what is known and unknown of a record's fields."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medjax.data.faults import BadExample
from medjax.errors import UserError

# What stands where nothing is known, in small letters and without marks around it.
_UNKNOWN = {
    "", "n/a", "n.a", "na", "nan", "null", "none", "left blank", "blank", "not listed", "not given",
    "not specified", "nos - not specified", "unspecified", "not available", "not applicable",
    "not provided", "unknown", "unsure",
}  # fmt: skip


_KINDS: dict[type[Any], str] = {str: "a text", dict: "an object", list: "a list"}


def read_records(path: Path, key: str) -> Iterator[tuple[int, Any]]:
    """The records of a JSON list with their indices from 0 on.

    Args:
      path: of the file, UTF-8.
      key: by whose value a record is called in messages.

    Raises:
      UserError: the file is missing, is not UTF-8 or holds no list, or its JSON breaks off; the
        message says after which record.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error}): get the file anew.") from error
    at = _skip(text, 0)
    if text[at : at + 1] != "[":
        raise UserError(f"{path} holds no JSON list: it begins with {text[at : at + 20]!r}.")
    index, last, at = 0, "", _skip(text, at + 1)
    while text[at : at + 1] != "]":
        try:
            # One by one, so that a message can say which record is damaged.
            record, at = _DECODER.raw_decode(text, at)
            at = _skip(text, at)
            if text[at : at + 1] == ",":
                at = _skip(text, at + 1)
            elif text[at : at + 1] != "]":
                raise json.JSONDecodeError("Expecting ',' or ']'", text, at)
        except (ValueError, RecursionError) as error:
            after = f", after {key} {last}" if last else ""
            raise UserError(
                f"{path}: record {index}{after}: the JSON is damaged ({error}): get the file anew."
            ) from error
        yield index, record
        index += 1
        last = str(record.get(key, "")) if isinstance(record, Mapping) else ""


_DECODER = json.JSONDecoder()


def _skip(text: str, at: int) -> int:
    while text[at : at + 1].isspace():
        at += 1
    return at


def member(record: Any, key: str, kind: type[Any], what: str = "record") -> Any:
    """What stands under a key that a record must have.

    Args:
      record: an object of JSON.
      key: the key.
      kind: str, dict, list, or object for anything; a number counts as a text.
      what: the record is, for messages.

    Raises:
      BadExample: the record is no object, has no such key, or something else stands there.
    """
    if not isinstance(record, Mapping):
        raise BadExample("wrong type", f"the {what} is no JSON object: {str(record)[:80]!r}.")
    if key not in record:
        raise BadExample(
            "missing key",
            f'the {what} lacks the key "{key}"; it has {", ".join(record) or "no keys"}.',
        )
    value = record[key]
    if kind is str and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, kind):
        wanted = _KINDS[kind]
        raise BadExample("wrong type", f'"{key}" of the {what} is {value!r:.80}, not {wanted}.')
    return value


def long_text(record: Mapping[str, Any], key: str) -> str:
    """The text under a key, without spaces around it; "" where the file says that it is unknown.

    Raises:
      BadExample: something else than a text, a number or null stands there.
    """
    if record.get(key) is None:
        return ""
    text = str(member(record, key, str)).strip()
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadExample("invalid text", f'"{key}" has half a character ({error}).') from error
    return "" if is_unknown(text) else text


def short_text(record: Mapping[str, Any], key: str) -> str:
    """As `long_text`, in one line, with one space between words."""
    return " ".join(long_text(record, key).split())


def is_unknown(text: str) -> bool:
    """Whether a text says that nothing is known: "N/A", "Left Blank", ..."""
    return " ".join(text.split()).strip(" .-_*()[]?").casefold() in _UNKNOWN
