"""How answers are scored against the true ones.

`catalogue.METRICS` is the table of all metrics. The basic ones are fractions in [0, 1], 1 is best,
and need no extra: detection is scored by `iou`, segmentation by `dice`, captions by `token_f1` and
`exact_match`, questions by `exact_match`. The others, in groups ("vqa", "text", "detection",
"degeneration", or "all"), say in the table what their values mean.
"""

from medjax.evaluation.metrics.catalogue import BASIC, GROUPS, METRICS, Metric, check, chosen
from medjax.evaluation.metrics.detection import detection_iou, iou_matrix, mean_iou
from medjax.evaluation.metrics.kinds import (
    FOUND_DICE,
    FOUND_IOU,
    MAIN_METRIC,
    MASK_DICE,
    Answer,
    Kind,
    answer_type,
    kind_of,
)
from medjax.evaluation.metrics.scoring import applicable, score, score_all
from medjax.evaluation.metrics.text import exact_match, token_f1

__all__ = [
    "BASIC",
    "FOUND_DICE",
    "FOUND_IOU",
    "GROUPS",
    "MAIN_METRIC",
    "MASK_DICE",
    "METRICS",
    "Answer",
    "Kind",
    "Metric",
    "answer_type",
    "applicable",
    "check",
    "chosen",
    "detection_iou",
    "exact_match",
    "iou_matrix",
    "kind_of",
    "mean_iou",
    "score",
    "score_all",
    "token_f1",
]
