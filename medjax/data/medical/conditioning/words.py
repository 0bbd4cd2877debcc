"""Texts as sequences of words, so that what differs only in its spelling compares as equal."""

import functools
import json
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_WORD = re.compile(r"\w+")
_IN_BRACKETS = re.compile(r"\([^()]*\)|\[[^][]*\]")


def words(text: str) -> tuple[str, ...]:
    """The words of a text: case folded, accents taken off, punctuation left out."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    letters = "".join(c for c in plain if not unicodedata.combining(c))
    return tuple(_WORD.findall(letters.replace("_", " ")))


def same(text: str) -> str:
    """Equal for texts of equal words; what is added in brackets does not count.

    An abbreviation in brackets is no other diagnosis: "Pulmonary embolism (PE)".
    """
    return " ".join(words(_IN_BRACKETS.sub(" ", text)) or words(text))


def holds(text: str, part: str) -> bool:
    """Whether the words of `part` occur in `text`, in a row."""
    return bool(part.strip()) and f" {' '.join(words(part))} " in f" {' '.join(words(text))} "


def first_match(text: str, patterns: Sequence[tuple[re.Pattern[str], str]]) -> str:
    """What the first pattern that is found in a text stands for; "" if none is."""
    return next((why for pattern, why in patterns if pattern.search(text)), "")


@functools.cache
def table(name: str) -> Any:
    """A JSON file beside this module; not to be changed."""
    return json.loads(Path(__file__).with_name(name).read_text("utf-8"))


@functools.cache
def patterns(name: str) -> tuple[tuple[re.Pattern[str], str], ...]:
    """A table of reasons and their regular expressions, in its order; case does not matter."""
    return tuple(
        (re.compile(pattern, re.IGNORECASE), why)
        for why, listed in table(name).items()
        for pattern in listed
    )
