"""Immutable records (dataclasses) from the nested values of a JSON file, strictly.

A key that is unknown or missing, or a value that is not of its field's type, is an error that names
the file and the key.
"""

import dataclasses
import json
import pathlib
import types
import typing
from collections.abc import Mapping
from typing import Any

from medjax.errors import UserError

_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def read_object(path: str | pathlib.Path, what: str = "") -> dict[str, Any]:
    """The object that a JSON file holds.

    Args:
      what: said before the path in error messages.

    Raises:
      UserError: no such file, or it holds something else.
    """
    name = f"{what} {path}".strip()
    try:
        data = json.loads(pathlib.Path(path).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{name} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise UserError(f"{name} is not a JSON object")
    return data


def from_dict(
    record: type, data: Any, where: str, choices: Mapping[str, type] | None = None
) -> Any:
    """A record from its values by name; fields with a default may be left out.

    Args:
      record: a dataclass with fields of str, int, float, bool, other records, any of these or None,
        tuples of them, or one of several records.
      where: what error messages call it.
      choices: by what "type" says, the records of fields that may be one of several.

    Raises:
      UserError: a key that is unknown or missing, a value that is not of its kind, or what the
        record itself refuses.
    """
    if not isinstance(data, Mapping):
        raise UserError(f"{where} is {data!r}; it must hold {record.__name__}'s values by name")
    fields = {field.name: field for field in dataclasses.fields(record)}
    unknown = sorted(set(data) - set(fields))
    missing = sorted(
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and name not in data
    )
    if unknown or missing:
        raise UserError(f"{where} has unknown keys {unknown} and lacks {missing}")
    values = {
        name: _value(fields[name].type, data[name], f"{where}: {name}", choices or {})
        for name in data
    }
    try:
        return record(**values)
    except UserError as error:  # values that do not add up
        known = str(error).startswith(where)
        raise UserError(str(error) if known else f"{where}: {error}") from error


def _value(kind: Any, value: Any, where: str, choices: Mapping[str, type]) -> Any:
    """A field's value, if it is of the field's type."""
    options = typing.get_args(kind)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if typing.get_origin(kind) is tuple:
        if isinstance(value, list | tuple):
            named = len(options) > 0 and dataclasses.is_dataclass(options[0])
            return tuple(
                _value(options[0], v, f"{where}[{i}]" if named else where, choices)
                for i, v in enumerate(value)
            )
    elif types.NoneType in options:
        (rest,) = set(options) - {types.NoneType}
        return None if value is None else _value(rest, value, where, choices)
    elif options:  # of records
        known = {name: record for name, record in choices.items() if record in options}
        if not isinstance(value, Mapping) or value.get("type") not in known:
            raise UserError(f"{where} must hold a type, one of {', '.join(known)}")
        values = {name: v for name, v in value.items() if name != "type"}
        return from_dict(known[value["type"]], values, where, choices)
    elif isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return from_dict(kind, value, where, choices)
    elif kind is float and number:
        return float(value)
    elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise UserError(f"{where} is {value!r}; expected {_WORDS.get(kind, 'a list')}")
