"""The table of metrics: a new one is an entry here."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from jaxtyping import Int

from medjax.errors import UserError
from medjax.evaluation.bootstrap import OfSets
from medjax.evaluation.metrics import degeneration, detection, text, vqa
from medjax.evaluation.metrics.kinds import MASK_DICE, Answer, AnswerType, Kind

# COCO's: 0.5, 0.55, ..., 0.95.
_COCO_IOUS = tuple(np.linspace(0.5, 0.95, 10))


class OfCorpus(Protocol):
    """Prepares a metric of a whole set; see `text.bleu`."""

    def __call__(self, answers: Sequence[Answer], groups: Int[np.ndarray, "answers"]) -> OfSets: ...


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric, and what it is for. One of `each`, `together` and `corpus` computes it.

    Attributes:
      name: in configs and files.
      title: as people write it.
      group: a name for several metrics at once.
      kinds: of examples that it scores.
      answer_type: of questions that it scores; None: of all. Captions have none.
      each: the value of one answer.
      together: the values of a set's answers, which depend on the set.
      corpus: of a set as a whole: an answer has no value of its own.
      needs_truth: whether an example without a true answer has no value.
      top: the greatest value there is, or else where an axis may end; the least is 0.
      better: which values are; "" where neither is by itself.
      main: whether tables show it for each task and in breakdowns.
      libraries: of the extra `eval`, by the names that they are imported by.
    """

    name: str
    title: str
    group: str
    kinds: tuple[Kind, ...]
    answer_type: AnswerType | None = None
    each: Callable[[Answer], float] | None = None
    together: Callable[[Sequence[Answer]], Sequence[float]] | None = None
    corpus: OfCorpus | None = None
    needs_truth: bool = True
    top: float = 1.0
    better: Literal["higher", "lower", ""] = "higher"
    main: bool = False
    libraries: tuple[str, ...] = ()

    def prepare(self, answers: Sequence[Answer], groups: Int[np.ndarray, "answers"]) -> OfSets:
        """What computes a metric of whole sets, of how often each group is in them."""
        assert self.corpus is not None, f"{self.name} is of single answers"
        return self.corpus(answers, groups)

    def scores(self, kind: Kind, answer_type: AnswerType, has_truth: bool) -> bool:
        """Whether it scores an example of this sort."""
        fits = kind != "question" or self.answer_type in (None, answer_type)
        return kind in self.kinds and fits and (has_truth or not self.needs_truth)


def _pair(function: Callable[[str, str], float]) -> Callable[[Answer], float]:
    return lambda answer: function(answer.generated, answer.truth)


def _alone(function: Callable[..., float], **settings: Any) -> Callable[[Answer], float]:
    return lambda answer: function(answer.generated, **settings)


_QUESTION: tuple[Kind, ...] = ("question",)
_CAPTION: tuple[Kind, ...] = ("caption",)
_DETECTION: tuple[Kind, ...] = ("detection",)
_SEGMENTATION: tuple[Kind, ...] = ("segmentation",)
_TEXTS: tuple[Kind, ...] = ("question", "caption")  # with answer_type "open": those alone
_EVERY: tuple[Kind, ...] = ("question", "caption", "detection", "segmentation")

_ALL = (
    Metric("exact_match", "exact match", "basic", _TEXTS, each=_pair(text.exact_match), main=True),
    Metric("token_f1", "token F1", "basic", _CAPTION, each=_pair(text.token_f1), main=True),
    Metric("iou", "IoU", "basic", _DETECTION, each=_pair(detection.detection_iou), main=True),
    Metric(
        "dice", "mean Dice", "basic", _SEGMENTATION,
        each=lambda answer: float(answer.extra[MASK_DICE]), main=True,
    ),
    Metric("vqa_accuracy", "VQA accuracy", "vqa", _QUESTION, each=vqa.accuracy),
    Metric(
        "closed_accuracy", "closed accuracy", "vqa", _QUESTION, "closed",
        each=vqa.closed_accuracy, main=True,
    ),
    Metric(
        "open_recall", "open recall", "vqa", _QUESTION, "open",
        each=_pair(vqa.open_recall), main=True,
    ),
    Metric("open_f1", "open token F1", "vqa", _QUESTION, "open", each=_pair(text.token_f1)),
    *(
        Metric(
            f"bleu_{n}", f"BLEU-{n}", "text", _TEXTS, "open",
            corpus=functools.partial(text.bleu, n), libraries=("sacrebleu",),
        )
        for n in range(1, 5)
    ),
    Metric(
        "rouge_l", "ROUGE-L", "text", _TEXTS, "open",
        each=_pair(text.rouge_l), main=True, libraries=("rouge_score", "rapidfuzz"),
    ),
    Metric(
        "cider", "CIDEr-D", "text", _TEXTS, "open",
        together=text.cider, top=10.0, libraries=("pycocoevalcap",),
    ),
    Metric(
        "edit_similarity", "edit similarity", "text", _TEXTS, "open",
        each=_pair(text.edit_similarity), libraries=("rapidfuzz",),
    ),
    Metric(
        "map_50", "mAP at IoU 0.5", "detection", _DETECTION,
        corpus=functools.partial(detection.average_precision, (0.5,)),
    ),
    Metric(
        "map", "mAP at IoU 0.5 to 0.95", "detection", _DETECTION,
        corpus=functools.partial(detection.average_precision, _COCO_IOUS), main=True,
    ),
    Metric(
        "length", "length in words", "degeneration", _TEXTS,
        each=_alone(degeneration.length), needs_truth=False, top=100.0, better="",
    ),
    Metric(
        "distinct_1", "distinct-1", "degeneration", _TEXTS,
        each=_alone(degeneration.distinct, n=1), needs_truth=False,
    ),
    Metric(
        "distinct_2", "distinct-2", "degeneration", _TEXTS,
        each=_alone(degeneration.distinct, n=2), needs_truth=False,
    ),
    Metric(
        "repetition", "repetition", "degeneration", _TEXTS,
        each=_alone(degeneration.repetition), needs_truth=False, better="lower",
    ),
    Metric(
        "answer_rate", "answer rate", "degeneration", _EVERY,
        each=_alone(degeneration.answered), needs_truth=False,
    ),
)  # fmt: skip

METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _ALL}
BASIC = ("basic",)
GROUPS: Mapping[str, tuple[str, ...]] = {
    group: tuple(m.name for m in _ALL if group in (m.group, "all"))
    for group in (*dict.fromkeys(m.group for m in _ALL), "all")
}


def chosen(names: Iterable[str]) -> tuple[Metric, ...]:
    """The metrics of some names and groups, each once, in the table's order.

    Raises:
      UserError: a name is neither a metric's nor a group's, or there is none at all.
    """
    wanted: set[str] = set()
    for name in names:
        if name not in METRICS and name not in GROUPS:
            raise UserError(
                f"There is no metric {name!r}: name groups ({', '.join(GROUPS)}) or metrics "
                f"({', '.join(METRICS)})."
            )
        wanted.update(GROUPS.get(name, (name,)))
    if not wanted:
        raise UserError('No metric is named: write ("basic",) for those that need no extra.')
    return tuple(metric for metric in _ALL if metric.name in wanted)


def check(names: Iterable[str]) -> None:
    """Makes sure that some metrics can be computed; to be asked before a run begins.

    Raises:
      UserError: a name is unknown, or a library is not installed; it names the extra to install.
    """
    for metric in chosen(names):
        for library in metric.libraries:
            text.library(library)
