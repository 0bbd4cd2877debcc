"""What an answer is: of which kind, open or closed; and how texts are compared word by word.

Four kinds of example, told apart by what they ask and what their true answer holds:

- segmentation: masks were compared, so that `extra` has `MASK_DICE`.
- detection: the true answer has boxes, or the question starts with "detect".
- caption: the task is "caption", or the question is one of PaliGemma's caption prompts ("cap en",
  "caption en", "describe en").
- question: everything else. A closed question has a few possible answers, an open one has many.
"""

import functools
import json
import re
import string
from collections.abc import Mapping
from typing import Any, Literal, Protocol

from medjax.data.loc_tokens import decode_boxes

Kind = Literal["question", "detection", "segmentation", "caption"]
AnswerType = Literal["open", "closed"]

# The score that stands for an answer of each kind where there is room for one.
MAIN_METRIC: dict[Kind, str] = {
    "question": "exact_match",
    "detection": "iou",
    "segmentation": "dice",
    "caption": "token_f1",
}
# A box counts as found from this IoU on (the PASCAL VOC criterion).
FOUND_IOU = 0.5
# Masks from this Dice on: that of an IoU of 0.5.
FOUND_DICE = 2 / 3
# Keys of `extra` where masks were compared: their mean Dice, and "mask_dice/<class>" for each class
# that the true masks show. Numbers in [0, 1]; see `external.masks` and `segmentation`.
MASK_DICE = "mask_dice"

_CAPTION_PROMPT = re.compile(r"(cap|caption|describe)( [a-z]{2})?")
# Chinese, too, in which SLAKE asks; there a "no" comes before what it denies.
_YES_NO = re.compile(r"(?P<yes>\byes\b|[是有对]|存在)|(?P<no>\bno\b|[不否没无])")
_BARE = {
    "yes", "是", "是的", "有", "对", "存在",
    "no", "否", "不", "不是", "没有", "无", "不存在", "不对",
}  # fmt: skip
# "A: ...", "(A) ...", "A. ..." at the start of a line or after a separator.
_CHOICE = re.compile(r"(?:^|[\n;|,?])\s*\(?([A-H])\s*[:.)]\s*")
# Chinese and Japanese are written without spaces: each character counts as a word.
_SPACELESS = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_LETTERS = rf"[^\W_{_SPACELESS}]+"
_WORD = re.compile(rf"[{_SPACELESS}]|{_LETTERS}(?:['’-]{_LETTERS})*")


class Answer(Protocol):
    """One answer, as metrics read it; the fields are those of `predictions.Prediction`."""

    @property
    def question(self) -> str: ...
    @property
    def generated(self) -> str: ...
    @property
    def truth(self) -> str: ...
    @property
    def task(self) -> str: ...
    @property
    def confidence(self) -> float | None: ...
    @property
    def extra(self) -> Mapping[str, Any]: ...


def kind_of(question: str, truth: str, task: str = "", extra: Mapping[str, Any] = {}) -> Kind:
    """Tells which kind of example this is: see the module's docstring."""
    if MASK_DICE in extra:
        return "segmentation"
    words = normalise(question)
    if decode_boxes(truth) or words.split(" ")[0] == "detect":
        return "detection"
    if task == "caption" or _CAPTION_PROMPT.fullmatch(words):
        return "caption"
    return "question"


def answer_type(truth: str, extra: Mapping[str, Any]) -> AnswerType:
    """Whether a question is open or closed.

    The dataset's own word counts, `extra["answer_type"]`: "closed", "yes/no" and "choice" are
    closed, everything else is open. Where it says nothing, questions with choices and those whose
    true answer is yes or no are closed.
    """
    said = str(extra.get("answer_type") or "").strip().casefold()
    if said:
        closed = said.startswith(("closed", "close", "yes", "choice", "multiple"))
    else:
        closed = bool(extra.get("choices")) or is_yes_or_no(truth)
    return "closed" if closed else "open"


def is_yes_or_no(truth: str) -> bool:
    """Whether a true answer is yes or no, and nothing else."""
    return "".join(tokens(truth)) in _BARE


def first_yes_or_no(text: str) -> str | None:
    """ "yes" or "no", whichever stands first in a text as a word of its own; None without one."""
    found = _YES_NO.search(text.casefold())
    return found.lastgroup if found else None


def choices_of(question: str, extra: Mapping[str, Any]) -> dict[str, str]:
    """The choices of a question, letter to text; empty where it has none.

    Args:
      question: the choices are read from it where `extra` has none: "... A: lung B: liver".
      extra: `choices` may be an object {letter: text}, a list of texts, or either as JSON, or a
        text such as "A: lung; B: liver".
    """
    given = extra.get("choices")
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            return _lettered(given)
    if isinstance(given, Mapping):
        return {str(letter).strip().upper(): str(text) for letter, text in given.items()}
    if isinstance(given, list | tuple):
        return dict(zip(string.ascii_uppercase, map(str, given), strict=False))
    return _lettered(question)


def _lettered(text: str) -> dict[str, str]:
    """Choices in a text that begin with their letters, in order from A; fewer than two are none."""
    marks = list(_CHOICE.finditer(text))
    if [m.group(1) for m in marks] != list(string.ascii_uppercase[: len(marks)]) or len(marks) < 2:
        return {}
    ends = [*(m.start() for m in marks[1:]), len(text)]
    return {
        m.group(1): text[m.end() : end].strip(" \n;|,") for m, end in zip(marks, ends, strict=True)
    }


def normalise(text: str) -> str:
    """Without case, white space at the ends and runs of it, and periods at the end."""
    return " ".join(text.casefold().split()).rstrip(". ")


def spaced_words(text: str) -> list[str]:
    """What white space separates, without case and without the punctuation around it."""
    words = (word.strip(string.punctuation) for word in text.casefold().split())
    return [word for word in words if word]


@functools.lru_cache(maxsize=1 << 16)  # each metric of an answer asks for them
def tokens(text: str) -> tuple[str, ...]:
    """Words and numbers without case and punctuation; a Chinese character is a word."""
    return tuple(_WORD.findall(text.casefold()))
