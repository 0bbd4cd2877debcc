"""python -m medjax.train --config=configs/quickstart.py [--workdir=DIR] [--config.key=value ...]

Trains the stages of a recipe, evaluates the result on the test data and exports it. Interrupted (by
Ctrl-C, SIGTERM or a power cut), the same command continues.

Datasets that medjax builds are kept in --config.data.dir, else in the folder that the environment
variable MEDJAX_DATA names, else in ~/.cache/medjax/data; compiled programs in ~/.cache/medjax/jax,
or where JAX_COMPILATION_CACHE_DIR says. XDG_CACHE_HOME stands for ~/.cache if it is set.
"""

import argparse
import json

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
    from medjax.pipelines import Interrupted, run

    try:
        outcome = run(config, args.workdir or f"runs/{config.name}")
    except Interrupted as stop:
        say(f"{stop}. The same command continues.")
        outcome = {"interrupted": str(stop)}
    if args.json:
        print(json.dumps(outcome))
    return 0


if __name__ == "__main__":
    cli.run(main)
