#!/usr/bin/env python
"""Draws how a run's training went: loss and scores of training and validation over epochs.

The best evaluation is marked, by the run's `early_stopping.metric`; where the validation loss has
risen for good, the curves are shaded as overfitting. Needs the extra `report`.

    tools/curves.py --workdir=runs/quickstart --stage base_lora --output curves.png --html
"""

import argparse
import json
import pathlib

from medjax import cli
from medjax.errors import UserError
from medjax.evaluation import curves, curves_page, curves_picture


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--workdir", type=pathlib.Path, required=True, help="of a run of medjax.train, done or not"
    )
    parser.add_argument(
        "--stage", action="append", default=[], help="may be given again; all that began if not"
    )
    parser.add_argument(
        "--output", type=pathlib.Path, help="a PNG file; <workdir>/curves.png by default"
    )
    parser.add_argument(
        "--html", action="store_true", help="also a page with the numbers, .html beside the PNG"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    args = parser.parse_args()
    workdir = args.workdir.expanduser()
    stages = curves.of_run(workdir, args.stage)
    output = (args.output or workdir / "curves.png").expanduser()
    if output.suffix.lower() != ".png":
        raise UserError(f"--output {output} does not end in .png")
    title = f"Curves of {workdir.resolve().name}"
    written = {"png": str(output)}
    try:
        curves_picture.write_png(output, stages, title=title)
        if args.html:
            written["html"] = str(output.with_suffix(".html"))
            curves_page.write_page(written["html"], stages, title=title)
    except OSError as error:
        raise UserError(f"--output {output} cannot be written: {error.strerror}") from error
    for stage in stages:
        cli.say(f"{stage.stage}: {stage.told()}")
    if args.json:
        print(json.dumps(written | {"stages": [stage.to_dict() for stage in stages]}))
    else:
        print(*written.values(), sep="\n")


if __name__ == "__main__":
    cli.run(main)
