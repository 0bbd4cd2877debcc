"""python -m medjax.train --config=configs/quickstart.py [--workdir=DIR] [--config.key=value ...]

Trains the stages of a recipe, evaluates the result on the test data and exports it. Interrupted (by
Ctrl-C, SIGTERM or a power cut), the same command continues.
"""

import argparse
import json
import pathlib

from medjax import cli
from medjax import config as config_lib
from medjax.cli import say


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m medjax.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="recipe, a Python file with get_config()")
    parser.add_argument("--workdir", help="where everything goes; default: runs/<name>")
    parser.add_argument("--json", action="store_true", help="print the results on stdout as JSON")
    args, overrides = parser.parse_known_args()
    config = config_lib.load(args.config, overrides)

    # Imported once the config is known to be good: jax takes seconds.
    from medjax.pipeline import Interrupted, run

    try:
        path = pathlib.Path(args.workdir or f"runs/{config.name}").expanduser()
        outcome = run(config, path)
    except Interrupted as stop:
        say(f"{stop}. The same command continues.")
        outcome = {"interrupted": str(stop)}
    if args.json:
        print(json.dumps(outcome))
    return 0


if __name__ == "__main__":
    cli.run(main)
