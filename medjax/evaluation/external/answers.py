"""What a row of a file of answers says, however its keys are spelled."""

import collections
import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medjax.errors import UserError
from medjax.evaluation.external.masks import MaskFiles, mask_files
from medjax.evaluation.external.rows import Row, read_rows
from medjax.evaluation.metrics import METRICS

# The spellings of each field, the surest first; case, spaces, "_" and "-" make no difference.
SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "id": ("id", "question_id", "qid", "quesid", "uid", "example_id", "sample_id", "image_id"),
    "question": ("question", "prompt", "query", "instruction", "prefix"),
    "generated": (
        "generated", "prediction", "pred", "predicted", "predicted_answer", "pred_answer",
        "model_answer", "generated_answer", "response", "model_response", "output", "model_output",
        "completion", "text",
    ),
    "truth": (
        "truth", "ground_truth", "gt", "gt_answer", "gt_ans", "reference", "target", "gold",
        "suffix", "correct_answer", "answer", "answers", "label",
    ),
    "task": ("task",),
    "group": ("group",),
    "image_key": ("image_key", "image_id", "image", "image_name", "img_name", "image_path"),
    "generated_mask": ("generated_mask", "predicted_mask", "prediction_mask", "pred_mask"),
    "truth_mask": ("truth_mask", "true_mask", "ground_truth_mask", "gt_mask"),
}  # fmt: skip
_MASKS = ("generated_mask", "truth_mask")
# Of medjax's own files: what else a `Prediction` has.
_OWN = ("log_prob", "log_prob_per_token", "truncated")
_DROPPED = ("scores", "confidence", "system", *_OWN)


@dataclasses.dataclass(frozen=True)
class Said:
    """One answer.

    Attributes:
      id: of the question.
      question, truth, task, group, image_key: "" where the file does not say.
      generated: the answer; "" if there is none.
      generated_mask, truth_mask: None where there is none.
      extra: everything else that the row has, and all true answers, if it has several.
      own: what else medjax wrote of a prediction.
    """

    id: str
    generated: str
    question: str = ""
    truth: str = ""
    task: str = ""
    group: str = ""
    image_key: str = ""
    generated_mask: MaskFiles | None = None
    truth_mask: MaskFiles | None = None
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    own: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Answers:
    """A file of answers.

    Attributes:
      answers: by id, in the file's order.
      taken: by field, the key that it was taken from.
      without_id: how many rows were left out because they have no id.
      doubled: ids that several rows have; the first row counts.
    """

    answers: Mapping[str, Said]
    taken: Mapping[str, str]
    without_id: int
    doubled: Sequence[str]


def read_answers(
    path: Path,
    keys: Mapping[str, str] | None = None,
    needs: str = "generated",
    system: str = "",
) -> Answers:
    """Reads a file of answers; rows that have no id are counted, and called by line if none has.

    Args:
      path: see `rows.read_rows`.
      keys: by field of `SPELLINGS`, the key to take instead of a usual spelling.
      needs: "generated", or "truth" of a file of true answers, of which none is generated.
      system: whose answers are read, of a file with a column "system" (medjax's
        predictions.parquet).

    Raises:
      UserError: the file can't be read, has no rows, no key for the answers, or the answers of
        several systems, none of which is named.
    """
    rows = _of_system(path, read_rows(path), system)
    if not rows:
        raise UserError(f"{path} has no answers.")
    taken = _taken(path, [row for _, row in rows], keys or {}, needs)
    found: dict[str, Said] = {}
    doubled: dict[str, None] = {}
    without_id = 0
    for where, row in rows:
        id = _text(row.get(taken["id"])) if "id" in taken else where
        if not id:
            without_id += 1
        elif id in found:
            doubled[id] = None
        else:
            found[id] = _said(id, row, taken, path.parent, where)
    return Answers(found, taken, without_id, list(doubled))


def _of_system(path: Path, rows: list[tuple[str, Row]], system: str) -> list[tuple[str, Row]]:
    """The rows of one system, where a file has several."""
    there = dict.fromkeys(_text(row["system"]) for _, row in rows if "system" in row)
    if system and system not in there:
        raise UserError(f"{path} has no system {system!r}, but {', '.join(there) or 'none'}.")
    if not system and len(there) > 1:
        raise UserError(f"{path} has the answers of {', '.join(there)}: name one with --system.")
    return [(where, row) for where, row in rows if not system or row.get("system") == system]


def _taken(path: Path, rows: Sequence[Row], keys: Mapping[str, str], needs: str) -> dict[str, str]:
    """The key of each field that the file has."""
    present = dict.fromkeys(key for row in rows for key in row)
    for field, key in keys.items():
        if field not in SPELLINGS:
            raise UserError(f"There is no field {field!r}, only {', '.join(SPELLINGS)}.")
        if key not in present:
            raise UserError(f"{path} has no key {key!r}; it has {', '.join(present)}.")
    plain = {_plain(key): key for key in reversed(present)}
    taken = dict(keys)
    for field, spellings in SPELLINGS.items():
        if field in taken or (field.startswith("generated") and needs == "truth"):
            continue
        # A key says one thing, but for an image's id, which may be the question's as well.
        used = {key for other, key in taken.items() if other != "id"}
        found = (plain[_plain(s)] for s in spellings if _plain(s) in plain)
        if key := next((key for key in found if key not in used), ""):
            taken[field] = key
    if needs == "generated" not in taken and _plain(taken.get("truth", "")) == "answer":
        # VQA's form of results: {"question_id": ..., "answer": ...}.
        taken["generated"] = taken.pop("truth")
    if needs not in taken and f"{needs}_mask" not in taken:
        raise UserError(
            f"{path}: no key is known to hold the answers; it has {', '.join(present)}. Name it "
            f"with --keys {needs}=KEY."
        )
    return taken


def _said(id: str, row: Row, taken: Mapping[str, str], folder: Path, where: str) -> Said:
    used = {*taken.values(), *_DROPPED, "extra", *METRICS}
    own = row.get("extra")
    extra = {key: value for key, value in row.items() if key not in used}
    if isinstance(own, Mapping):
        extra |= own
    elif own is not None:
        extra["extra"] = own
    fields: dict[str, Any] = {
        field: _text(row.get(taken[field]))
        for field in SPELLINGS
        if field in taken and field not in ("id", *_MASKS)
    } | ({} if "generated" in taken else {"generated": ""})
    for field in _MASKS:
        if field in taken:
            fields[field] = mask_files(row.get(taken[field]), row, folder, where)
    truths = row.get(taken.get("truth", ""))
    if isinstance(truths, list | tuple) and truths:
        people = [_text(t.get("answer") if isinstance(t, Mapping) else t) for t in truths]
        fields["truth"] = collections.Counter(people).most_common(1)[0][0]
        extra["answers"] = people
    return Said(id, extra=extra, own={k: row[k] for k in _OWN if row.get(k) is not None}, **fields)


def _text(value: Any) -> str:
    """A value as an answer: numbers as they are written, true and false as yes and no."""
    if value is None or value != value:  # NaN, of tables where nothing stands
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return _text(value[0]) if len(value) == 1 else ", ".join(map(_text, value))
    return str(value).strip()


def _plain(key: str) -> str:
    return re.sub(r"[\s_-]", "", key).casefold()
