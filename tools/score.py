#!/usr/bin/env python
"""Scores any model's answers, as medjax.evaluate scores its own.

    python tools/score.py --predictions llava_med.jsonl --data medpix2=/data/medpix2 --part test \\
        --name LLaVA-Med --parameters 7.2e9 --metrics all --by modality,plane --group patient

The file has a row an answer: JSON lines, JSON, CSV, TSV or parquet, also medjax's own
predictions.jsonl. Usual names of its keys (question_id, prediction, answer, ...) are understood and
told of; --keys names others. True answers come from the file, or by id from a dataset. Writes
results.json, results.md, predictions.jsonl and system.json, from which tools/compare.py makes a
table of several systems.

Masks are scored by Dice: rows with generated_mask and truth_mask name images whose values are
classes, or a list or an object of images, one a class; of NIfTI volumes, axis and slice say which
slice. Paths are from the file's folder. PaliGemma's <seg> answers are decoded by --mask-codec.

All metrics but the basic, vqa, detection and degeneration ones need the
extra `eval`.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medjax import cli
from medjax.errors import UserError
from medjax.evaluation import breakdown, metrics
from medjax.evaluation.external.answers import SPELLINGS, Answers, read_answers
from medjax.evaluation.external.join import Joined, join
from medjax.evaluation.external.truths import read_truths
from medjax.evaluation.metrics import degeneration
from medjax.evaluation.predictions import Prediction, scored, write_jsonl
from medjax.evaluation.table import results
from medjax.files import write_whole

FILES = ("results.json", "results.md", "predictions.jsonl", "system.json")


def names(text: str) -> tuple[str, ...]:
    """For argparse: names with commas between them."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def pairs(text: str) -> dict[str, str]:
    """For argparse: a=b,c=d."""
    found = {}
    for pair in names(text):
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not (equals and key and value):
            raise argparse.ArgumentTypeError(f"{pair!r} is not of the form NAME=VALUE")
        found[key] = value
    return found


def figures(text: str) -> dict[str, float]:
    """For argparse: metrics with their values."""
    try:
        found = {key: float(value) for key, value in pairs(text).items()}
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error
    if unknown := [key for key in found if key not in metrics.METRICS]:
        raise argparse.ArgumentTypeError(
            f"there is no metric {unknown[0]!r}, only {', '.join(metrics.METRICS)}"
        )
    if not all(map(math.isfinite, found.values())):
        raise argparse.ArgumentTypeError(f"{text!r} has a value that is no finite number")
    return found


def count(text: str) -> float:
    """For argparse: a number of parameters, such as 2.9e9."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number of parameters, such as 2.9e9")
    return int(number)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--predictions", type=Path, required=True, help="file of answers")
    p.add_argument("--name", help="of the system; the file's by default")
    p.add_argument(
        "--keys", type=pairs, default={}, metavar="FIELD=KEY,...",
        help=f"the file's keys for {', '.join(SPELLINGS)}, where they are not found",
    )  # fmt: skip
    p.add_argument("--system", default="", help="whose answers, of a file of several systems'")
    p.add_argument(
        "--data", default="", metavar="NAME=FOLDER",
        help="dataset that has the true answers by id, or a file of them",
    )  # fmt: skip
    p.add_argument("--part", default="test", help="of the dataset: train, validation, test, all")
    p.add_argument("--tasks", type=names, default=(), help="of the dataset; all by default")
    p.add_argument(
        "--only-answered", action="store_true",
        help="leave out questions of the dataset that the file does not have; else they count "
        "as not answered",
    )  # fmt: skip
    p.add_argument(
        "--group", default="",
        help="key of what intervals are over, such as patient; the images by default",
    )  # fmt: skip
    p.add_argument(
        "--by", type=names, default=(), metavar="KEY,...",
        help="further tables: modality, plane, location, question_type, answer_type, seen, "
        "answer_length, task, or any other key",
    )  # fmt: skip
    p.add_argument(
        "--metrics", type=names, default=metrics.BASIC, metavar="NAME,...",
        help=f"groups ({', '.join(metrics.GROUPS)}) or single metrics; basic by default",
    )  # fmt: skip
    p.add_argument(
        "--mask-codec", type=Path, metavar="NPZ",
        help="of <seg> answers, whose masks are then scored: big_vision's vae-oid.npz or medjax's "
        "mask_codec.npz",
    )  # fmt: skip
    p.add_argument("--licence", default="", help="of the system, for tables")
    p.add_argument("--parameters", type=count, help="how many the system has, such as 2.9e9")
    p.add_argument("--source", default="", help="paper or place of the system, for tables")
    p.add_argument(
        "--published", type=figures, default={}, metavar="METRIC=VALUE,...",
        help="figures that the source gives, kept beside those computed here",
    )  # fmt: skip
    p.add_argument("--output", type=Path, help="a folder; by default beside the file of answers")
    p.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    return p


def tell(path: Path, answers: Answers, joined: Joined, only_answered: bool) -> dict[str, int]:
    """Says what was taken for what, and what did not fit; returns how often."""
    taken = ", ".join(f"{field} from {key!r}" for field, key in answers.taken.items())
    cli.say(f"{path}: {len(answers.answers)} answers; {taken}.")
    if "id" not in answers.taken:
        cli.say("The file has no ids: answers are called by file and line.")
    questions = len(joined.predictions)
    answered = sum(bool(degeneration.answered(p.generated)) for p in joined.predictions)
    left = "left out" if only_answered else "counted as not answered"
    told = {
        "without_id": (answers.without_id, "rows without an id, left out"),
        "doubled": (len(answers.doubled), "ids in several rows, of which the first counts"),
        "unknown": (len(joined.unknown), "ids that are not in the dataset, left out"),
        "missing": (len(joined.missing), f"questions without a row, {left}"),
        "without_truth": (joined.without_truth, "questions without a true answer, not scored"),
    }
    ids = {"doubled": answers.doubled, "unknown": joined.unknown, "missing": joined.missing}
    for what, (number, text) in told.items():
        if number:
            cli.say(f"- {text}: {number}{some(ids.get(what, ()))}")
    cli.say(f"{answered} of {questions} questions are answered.")
    counts = {what: number for what, (number, _) in told.items()}
    return {"questions": questions, "answered": answered, **counts}


def some(ids: Sequence[str]) -> str:
    """The first few of some ids, in brackets."""
    return f" ({', '.join(map(repr, ids[:3]))}{', ...' if len(ids) > 3 else ''})" if ids else ""


def with_masks(predictions: list[Prediction], codec: Path | None) -> list[Prediction]:
    """The predictions with what a codec makes of their <seg> tokens, if there is one."""
    if codec is None:
        return predictions
    # jax is slow to import, and seldom needed.
    from medjax.checkpoints import mask_codec
    from medjax.evaluation import segmentation

    return segmentation.compared(predictions, mask_codec.open_npz(codec.expanduser()))


def output_of(args: argparse.Namespace) -> Path:
    """The folder to write to.

    Raises:
      UserError: the file of answers would be written over.
    """
    folder = (args.output or args.predictions.with_suffix(".scores")).expanduser()
    if any((folder / name).resolve() == args.predictions.resolve() for name in FILES):
        raise UserError(
            f"{folder / args.predictions.name} would be written over: choose another --output."
        )
    return folder


def main() -> None:
    """The command."""
    args = parser().parse_args()
    start = time.perf_counter()
    args.predictions = args.predictions.expanduser()
    metrics.check(args.metrics)
    folder = output_of(args)
    answers = read_answers(args.predictions, args.keys, system=args.system)
    truths = read_truths(args.data, args.part, args.tasks) if args.data else None
    joined = join(answers, truths, group=args.group, only_answered=args.only_answered)
    breakdown.check(args.by, (p.extra for p in joined.predictions))
    counts = tell(args.predictions, answers, joined, args.only_answered)
    name = args.name or args.system or args.predictions.stem
    predictions = scored(with_masks(joined.predictions, args.mask_codec), args.metrics)
    groups = f"{args.group or ('group' if 'group' in answers.taken else 'image')}s"
    table = results({name: predictions}, groups=groups, metrics=args.metrics, by=args.by)
    system = {
        "name": name,
        "licence": args.licence,
        "parameters": args.parameters,
        "source": args.source,
        "published": args.published,
    }
    report: dict[str, Any] = table.to_dict() | {"counts": counts, "taken": dict(answers.taken)}
    try:
        write_json(folder / "results.json", report)
        write_whole(folder / "results.md", (table.to_markdown() + "\n").encode("utf-8", "replace"))
        write_jsonl(folder / "predictions.jsonl", predictions)
        write_json(folder / "system.json", system)
    except OSError as error:
        raise UserError(f"--output {folder} cannot be written: {error.strerror}.") from error
    seconds = time.perf_counter() - start
    cli.say(table.to_text())
    cli.say(f"{len(predictions)} answers scored in {seconds:.1f} s: {folder / 'results.md'}")
    if args.json:
        print(json.dumps(report | {"system": system, "output": str(folder)}, allow_nan=False))


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Writes a file, whole or not at all."""
    write_whole(path, (json.dumps(data, indent=2, allow_nan=False) + "\n").encode())


if __name__ == "__main__":
    cli.run(main)
