#!/usr/bin/env python
"""Looks for what datasets share: patients, images, captions, near-duplicates.

Compares every part that models are trained on with every part that is held out, of one dataset and
of all of them, and validation with test. Text burned into images is hidden before that.
For example:

    python tools/leak_check.py --data medpix2=/data/medpix2 --data vqa_rad=/data/vqa_rad \\
        --page leaks.html

Needs the extra `medical`.
"""

import argparse
import json
import pathlib

from medjax import cli
from medjax.data.faults import FaultCounter
from medjax.data.medical.conditioning import compared
from medjax.data.medical.conditioning.leaks import KINDS, Leak, counted, find
from medjax.data.medical.conditioning.settings import Settings
from medjax.errors import UserError


def check(
    named: list[tuple[str, pathlib.Path]], settings: Settings
) -> tuple[list[tuple[compared.Part, compared.Part]], list[Leak], dict[str, dict[str, int]]]:
    """Reads the datasets and compares their parts.

    Returns:
      The parts that were compared; what they share; records that cannot be used, by dataset and
      reason.
    """
    parts: list[compared.Part] = []
    faults = {}
    for name, folder in named:
        counter = FaultCounter("skip")
        records = compared.read(name, folder, settings, counter)
        parts += compared.parts_of(records, name)
        if counter.counts:
            faults[name] = dict(counter.counts)
            cli.say(f"{name}: left out {counter.summary()}")
    pairs = compared.to_compare(parts)
    leaks: list[Leak] = []
    for one, other in pairs:
        leaks += find(
            one.records,
            other.records,
            distance=settings.hash_distance,
            parts=(one.name, other.name),
            one_dataset=one.dataset == other.dataset,
        )
    return pairs, leaks, faults


def report(
    pairs: list[tuple[compared.Part, compared.Part]], leaks: list[Leak], settings: Settings
) -> dict:
    """What the JSON says."""
    rows = []
    for one, other in pairs:
        of = [leak for leak in leaks if leak.parts == (one.name, other.name)]
        counts = counted(of)
        rows.append(
            {
                "parts": [one.name, other.name],
                "images": [len(one.records), len(other.records)],
                "pairs": {kind: counts.get(kind, 0) for kind in KINDS},
                "images shared": [
                    len({leak.train.id for leak in of}),
                    len({leak.held_out.id for leak in of}),
                ],
            }
        )
    return {
        "hash_distance": settings.hash_distance,
        "overlays": settings.overlays,
        "compared": rows,
        "leaks": [
            {
                "kind": leak.kind,
                "parts": list(leak.parts),
                "images": [leak.train.id, leak.held_out.id],
                "detail": leak.detail,
            }
            for leak in leaks
        ],
    }


def table(rows: list[dict]) -> str:
    """The counts as text, a row for each two parts."""
    head = ["parts", *KINDS, "images shared"]
    lines = [head]
    for row in rows:
        shared = " / ".join(map(str, row["images shared"]))
        lines.append([" – ".join(row["parts"]), *map(str, row["pairs"].values()), shared])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", action="append", required=True, metavar="NAME=FOLDER",
        help="a dataset and where it lies; may be given several times",
    )  # fmt: skip
    parser.add_argument("--page", type=pathlib.Path, help="write an HTML page with all pairs here")
    parser.add_argument(
        "--distance", type=int, default=Settings.hash_distance,
        help="of 64 bits of their hashes, so many may differ between near-duplicates "
        "(default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--overlays", choices=("mask", "crop", "keep"), default=Settings.overlays,
        help="what is done about text burned into images before (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--strict", action="store_true", help="exit with 2 if parts share anything")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    args = parser.parse_args()
    if not 0 <= args.distance <= 64:
        raise UserError(f"--distance is {args.distance}: it may be 0 to 64.")
    named = [compared.named_folder(text, "--data") for text in args.data]
    if len({name for name, _ in named}) < len(named):
        raise UserError("--data names a dataset twice: give each one folder.")
    settings = Settings(overlays=args.overlays, hash_distance=args.distance)
    pairs, leaks, faults = check(named, settings)
    if not pairs:
        raise UserError(
            "There is nothing to compare: a single dataset has to have several parts, and this "
            "has one. Give another one with --data."
        )
    told = report(pairs, leaks, settings) | {"left_out": faults}
    if args.page:
        from medjax.evaluation.leak_page import write_page

        names = ", ".join(name for name, _ in named)
        compared_names = [(one.name, other.name) for one, other in pairs]
        try:
            write_page(args.page, compared_names, leaks, title=f"Leaks: {names}")
        except OSError as error:
            raise UserError(f"--page {args.page} cannot be written: {error.strerror}") from error
        told["page"] = str(args.page)
    if args.json:
        print(json.dumps(told))
    else:
        print(table(told["compared"]))
    counts = ", ".join(f"{count} × {kind}" for kind, count in counted(leaks).items())
    cli.say(f"Shared: {counts}." if leaks else "The parts share nothing that was looked for.")
    return 2 if leaks and args.strict else 0


if __name__ == "__main__":
    cli.run(main)
