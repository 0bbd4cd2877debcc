#!/usr/bin/env python
"""Quality, speed and cache memory of 4M with one and another number of key/value heads.

Takes the tokenizers, data and settings of a finished run of 4M, trains its model anew for each
number of heads, with everything else the same, and compares what comes of it. What is trained
already is not trained again. Writes gqa.json, gqa.md and gqa.png. Needs the extra `report`.
"""

import argparse
import json
import pathlib

from medjax import cli
from medjax.cli import say
from medjax.errors import UserError
from medjax.evaluation.fourm.heads import NAME
from medjax.pipelines import Interrupted
from medjax.pipelines.fourm import heads


def numbers(text: str) -> list[int]:
    """For argparse: integers of at least 1, with commas between them."""
    return [cli.positive(part) for part in text.split(",")]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="folder of a 4M run")
    parser.add_argument(
        "--kv-heads", type=numbers, default=[4, 2, 1], help="numbers of heads, such as 4,2,1"
    )
    parser.add_argument("--steps", type=cli.positive, default=0, help="the run's own by default")
    parser.add_argument(
        "--output", type=pathlib.Path, help="a folder; the run's own with _gqa behind it by default"
    )
    parser.add_argument("--rounds", type=cli.positive, default=20, help="in which times are taken")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    args = parser.parse_args()

    workdir = args.workdir.expanduser()
    output = (args.output or workdir.with_name(f"{workdir.name}_gqa")).expanduser()
    try:
        found = heads.run(workdir, output, args.kv_heads, steps=args.steps, rounds=args.rounds)
    except Interrupted as stop:
        say(f"{stop}. The same command continues.")
        return
    try:
        found.write(output)
    except OSError as error:
        raise UserError(f"--output {output} cannot be written: {error.strerror}") from error
    say(found.to_markdown())
    print(json.dumps(found.to_dict()) if args.json else output / f"{NAME}.md")


if __name__ == "__main__":
    cli.run(main)
