"""Answers to questions, scored as visual question answering scores them.

VQA accuracy and its normalisation follow GT-Vision-Lab/VQA, PythonEvaluationTools/vqaEvaluation/
vqaEval.py (Antol et al., arXiv:1505.00468); open recall follows microsoft/LLaVA-Med,
llava/eval/run_eval.py and eval_metrics. Where their code does something else than it seems to mean,
it is what the code does that counts here, so that numbers can be compared:

- A period is deleted unless a digit follows. The pattern's `(?!<=\\d)` was meant to look behind for
  a digit; as it is written it looks ahead for "<=", and never stops a match. So "3." loses its
  period, and "1.5" keeps it.
- `re.UNICODE` is passed where `sub` takes the number of replacements: no more than 32 periods are
  deleted.
- A mark of punctuation becomes a space, but nothing if the original text has it beside a space, and
  nothing at all, whichever mark it is, if the text has a comma between digits: "1,000 a/b" gives
  "1000 ab".
- "none" becomes "0", and "a" is an article: as an answer it is empty.
- Contractions get their apostrophe ("dont": "don't"), except that "somebody'd" loses it. Keys with
  capitals ("Im", "Id've") never match, as the text is in lower case by then.
- Colons and apostrophes stay.
"""

import collections
import functools
import re
from collections.abc import Sequence

from medjax.evaluation.metrics.kinds import (
    Answer,
    choices_of,
    first_yes_or_no,
    is_yes_or_no,
    tokens,
)

_PUNCTUATION = (
    ";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",",
    "?", "!",
)  # fmt: skip
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"(?!<=\d)\.(?!\d)")
_MOST_PERIODS = int(re.UNICODE)
_ARTICLES = ("a", "an", "the")
_NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5",
    "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
# The official table has every way to leave out one apostrophe of these.
_CONTRACTED = """
'ow's'at 'twas ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't
hadn't've hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am
might've mightn't mightn't've must've mustn't needn't not've o'clock oughtn't shan't she'd've
should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've
someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've wasn't we'd've we've weren't what'll what're
what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're
you've
"""
_CONTRACTIONS = {"somebody'd": "somebodyd"} | {
    whole[:i] + whole[i + 1 :]: whole
    for whole in _CONTRACTED.split()
    for i, letter in enumerate(whole)
    if letter == "'"
}


def strip_punctuation(text: str) -> str:
    """The official `processPunctuation`, quirks and all: see the module's docstring."""
    out = text
    everywhere = _COMMA_IN_NUMBER.search(text) is not None
    for mark in _PUNCTUATION:
        if mark in out:
            beside_space = f"{mark} " in text or f" {mark}" in text
            out = out.replace(mark, "" if beside_space or everywhere else " ")
    return _PERIOD.sub("", out, count=_MOST_PERIODS)


def strip_articles(text: str) -> str:
    """The official `processDigitArticle`: lower case, digits, no articles, apostrophes."""
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


@functools.lru_cache(maxsize=1 << 16)  # a dataset has few different answers, and several metrics
def vqa_normalise(text: str) -> str:
    """An answer as the official evaluation compares it."""
    return strip_articles(strip_punctuation(text.replace("\n", " ").replace("\t", " ").strip()))


def vqa_accuracy(generated: str, answers: Sequence[str]) -> float:
    """VQA accuracy, in [0, 1].

    Args:
      generated: the system's answer.
      answers: those that people gave.

    Returns:
      With several answers what the official code gives: the mean, over each person left out in
      turn, of min(1, people among the others who gave this answer / 3), where the people's answers
      lose their punctuation, and only if they differ. With one answer, which the official code
      gives 0, whether both are the same after normalisation: what medical datasets report.

    Raises:
      ValueError: there is no answer.
    """
    if not answers:
        raise ValueError("VQA accuracy needs an answer to compare with")
    said = vqa_normalise(generated)
    if len(answers) == 1:
        return float(said == vqa_normalise(answers[0]))
    if len(set(answers)) > 1:
        answers = [strip_punctuation(answer) for answer in answers]
    same = [answer == said for answer in answers]
    matches = sum(same)
    return sum(min(1.0, (matches - mine) / 3) for mine in same) / len(answers)


def accuracy(answer: Answer) -> float:
    """`vqa_accuracy`, against `extra["answers"]` if that is a list of texts, else the truth."""
    answers = answer.extra.get("answers")
    if isinstance(answers, list | tuple) and answers and all(isinstance(a, str) for a in answers):
        return vqa_accuracy(answer.generated, answers)
    return vqa_accuracy(answer.generated, [answer.truth])


def closed_accuracy(answer: Answer) -> float:
    """Whether a closed question was answered right, however many words were made about it.

    Where the truth is yes or no, the answer's first yes or no counts. Where there are choices, the
    answer is the letter that it is or begins with ("B", "B) liver", "(b)", "Answer: B"), else the
    one choice whose text it holds. Otherwise the true answer must stand in it, word for word.
    """
    truth, generated = answer.truth, answer.generated
    if is_yes_or_no(truth):
        return float(first_yes_or_no(generated) == first_yes_or_no(truth))
    choices = choices_of(answer.question, answer.extra)
    if choices and (right := _chosen(truth, choices)):
        return float(_chosen(generated, choices) == right)
    return float(_holds(tokens(generated), tokens(truth)))


_LETTER = re.compile(
    r"\s*(?:(?:the\s+)?(?:correct\s+)?(?:answer|option|choice)\s*(?:is)?\s*:?\s*)?\(?([A-Z])"
    r"(?:\s*$|\s*[:.)\],])",
    re.IGNORECASE,
)


def _chosen(text: str, choices: dict[str, str]) -> str | None:
    """The letter of the choice that a text names; None if that cannot be told."""
    letter = _LETTER.match(text)
    if letter and letter.group(1).upper() in choices:
        return letter.group(1).upper()
    words = tokens(text)
    same = [letter for letter, choice in choices.items() if tokens(choice) == words]
    held = same or [letter for letter, choice in choices.items() if _holds(words, tokens(choice))]
    # "left lung" holds "lung" as well: the longest choice is meant.
    held.sort(key=lambda letter: -len(tokens(choices[letter])))
    lengths = [len(tokens(choices[letter])) for letter in held[:2]]
    return held[0] if held and (len(held) == 1 or lengths[0] > lengths[1]) else None


def _holds(words: Sequence[str], part: Sequence[str]) -> bool:
    """Whether some words stand in a row among others."""
    size = len(part)
    return size > 0 and any(
        words[i : i + size] == part for i in range(len(words) - size + 1) if words[i] == part[0]
    )


def open_recall(generated: str, truth: str) -> float:
    """Recall of the true answer's words, in [0, 1], as LLaVA-Med's evaluation computes it.

    Both texts are normalised as for VQA (twice, as there), without commas. A true word that is said
    counts as often as it is *said*, one that is missing as often as it is in the truth: repeating
    a right word raises this recall, which is why it should be read beside `repetition`.
    """
    said, true = (collections.Counter(_llava_med(text).split()) for text in (generated, truth))
    found = sum(count for word, count in said.items() if word in true)
    missing = sum(count for word, count in true.items() if word not in said)
    return found / (found + missing) if found else 0.0


@functools.lru_cache(maxsize=1 << 16)
def _llava_med(text: str) -> str:
    for _ in range(2):
        text = strip_articles(strip_punctuation(text.lower())).replace(",", "")
    return text
