#!/usr/bin/env python
"""Puts several systems' results on the same questions into one table, with published figures.

Reads folders that medjax.evaluate or tools/score.py wrote. Every system is compared with one of
them, the reference, by a paired bootstrap on the questions that all systems answered. Writes
comparison.json, .md, .html and .png. Needs the extra `report`.

  python tools/compare.py --systems runs/medpix/evaluation scores/llava_med \\
      --reference "majority answer" --published published.json --output comparison

A file system.json in a folder says what its system is: {"name": "...", "licence": "apache-2.0",
"parameters": 2.9e9, "source": "..."}. Published figures are a JSON list:
[{"system": "...", "parameters": 7e9, "open_recall": 0.6, "source": "paper, table 3"}].
"""

import argparse
import json
import pathlib

from medjax import cli
from medjax.errors import UserError
from medjax.evaluation.comparison.compare import compare
from medjax.evaluation.comparison.page import write_page
from medjax.evaluation.comparison.picture import write_png
from medjax.evaluation.comparison.published import of_systems, read_published
from medjax.evaluation.comparison.systems import gather
from medjax.evaluation.comparison.table import Comparison
from medjax.evaluation.comparison.text import to_markdown
from medjax.files import write_whole

NAME = "comparison"


def write(comparison: Comparison, folder: pathlib.Path, title: str) -> None:
    """Writes the four files; the picture first, as it may lack its library."""
    try:
        left = write_png(folder / f"{NAME}.png", comparison, title=title)
        write_page(folder / f"{NAME}.html", comparison, title=title)
        write_whole(
            folder / f"{NAME}.md", (to_markdown(comparison) + "\n").encode("utf-8", "replace")
        )
        report = json.dumps(comparison.to_dict(), indent=2, allow_nan=False) + "\n"
        write_whole(folder / f"{NAME}.json", report.encode())
    except OSError as error:
        raise UserError(f"--output {folder} cannot be written: {error.strerror}") from error
    if left:
        cli.say(
            f"the picture has no room for {left} more metrics; choose with --tasks or --metrics"
        )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--systems", nargs="+", required=True, metavar="FOLDER",
        help="of results, or of runs; NAME=FOLDER names a folder's system",
    )  # fmt: skip
    parser.add_argument("--published", type=pathlib.Path, help="JSON file of published figures")
    parser.add_argument(
        "--reference", default="", help="the system that the others are compared with; the first"
    )
    parser.add_argument("--tasks", nargs="+", default=(), help="the tables wanted; all")
    parser.add_argument("--metrics", nargs="+", default=(), help="the columns wanted; all")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="a folder")
    parser.add_argument("--title", default="Comparison of systems")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    args = parser.parse_args()
    figures = read_published(args.published) if args.published else []
    systems = gather(args.systems)
    comparison = compare(
        systems,
        [*of_systems(systems), *figures],
        reference=args.reference,
        tasks=args.tasks,
        metrics=args.metrics,
        seed=args.seed,
    )
    folder = args.output.expanduser()
    write(comparison, folder, args.title)
    for note in comparison.notes:
        cli.say(note)
    if args.json:
        print(json.dumps(comparison.to_dict()))
    else:
        cli.say(to_markdown(comparison))
        print(folder / f"{NAME}.html")


if __name__ == "__main__":
    cli.run(main)
