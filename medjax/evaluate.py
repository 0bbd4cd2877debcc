"""python -m medjax.evaluate --workdir=runs/quickstart [--part=validation] [--config.key=value ...]

Asks a trained run's models its test (or validation) questions again, and writes the answers.
"""

import argparse
import json

from medjax import cli


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m medjax.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--workdir", required=True, help="of a run of medjax.train")
    parser.add_argument("--part", default="test", choices=("test", "validation", "train"))
    parser.add_argument("--json", action="store_true", help="print the results on stdout as JSON")
    args, overrides = parser.parse_known_args()

    from medjax import config as config_lib
    from medjax import pipelines, workdir

    config = config_lib.override(workdir.read_config(args.workdir), overrides)
    outcome = pipelines.evaluate(config, workdir.Workdir.of(args.workdir), args.part)
    if args.json:
        print(json.dumps(outcome))
    return 0


if __name__ == "__main__":
    cli.run(main)
