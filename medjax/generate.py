"""Asks the model of a trained run; what may be asked is its family's.

PaliGemma answers questions about an image, several side by side. The confidence of an answer is its
tokens' probability, as a geometric mean: how sure the model is, not how often it is right.

    python -m medjax.generate --workdir=runs/quickstart --image=scan.png --prompt="detect brain"

4M makes any of its modalities from any others. Each --make reads what was given and what was made
before it; a modality of larger images after one of smaller is super-resolution.

    python -m medjax.generate --workdir=runs/fourm_quickstart --given t1=scan.png \\
        --make tok_tissue --make caption --output made

How answers are chosen comes from the run's config, or from the settings below.
"""

import json
import pathlib

from medjax import cli, flags
from medjax.errors import UserError


def main() -> int:
    """The command."""
    args = flags.parser(__doc__).parse_args()

    # Imported once the command line is known to be good: jax takes seconds.
    from medjax import workdir

    family = workdir.read_config(args.workdir).family
    flags.check(args, family)
    outcome, lines = {"paligemma": _answers, "fourm": _made}[family](args)
    print(json.dumps(outcome) if args.json else "\n".join(lines))
    return 0


def _answers(args):
    from medjax.pipelines.paligemma.ask import ask, lines, part_of_image

    image = part_of_image(pathlib.Path(args.image), flags.part(args))
    decode = flags.settings(args, "paligemma")
    replies = ask(args.workdir, image, args.prompt, stage=args.stage, decode=decode, seed=args.seed)
    return {"image": args.image, "answers": replies}, lines(replies)


def _made(args):
    from medjax.pipelines.fourm.make import make

    folder = args.output.expanduser() if args.output else None
    if folder is not None and folder.exists() and not folder.is_dir():
        raise UserError(f"--output {folder} is no folder")
    made = make(
        args.workdir,
        flags.given(args.given),
        args.make,
        stage=args.stage,
        part=flags.part(args),
        settings=flags.settings(args, "fourm"),
        seed=args.seed,
        num_samples=1 if args.num_samples is None else args.num_samples,
    )
    return made.to_dict() if folder is None else made.write(folder), made.lines()


if __name__ == "__main__":
    cli.run(main)
