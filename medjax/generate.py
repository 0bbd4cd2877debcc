"""python -m medjax.generate --workdir=runs/quickstart --image=scan.png --prompt="detect brain"

Asks a trained run's model about an image. Several --prompt are answered side by side. How answers
are chosen comes from the run's config, or from the settings below. The confidence of an answer is
its tokens' probability, as a geometric mean: how sure the model is, not how often it is right.
"""

import argparse
import json
import math
import pathlib

from medjax import cli

_PART = ("axis", "slice", "frame", "window")
# name -> (type, help); the names and defaults are DecodeConfig's.
_DECODE = {
    "method": (str, "greedy, sample or beam"),
    "max_new_tokens": (int, "longest answer, in tokens"),
    "temperature": (float, "of sample"),
    "top_p": (float, "of sample: draw from the most probable tokens that reach this probability"),
    "num_samples": (int, "of sample: answers drawn, of which the most probable is shown"),
    "num_beams": (int, "of beam: unfinished answers kept"),
    "length_penalty": (float, "of beam: 0 for the most probable answer, more for longer ones"),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m medjax.generate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--workdir", required=True, help="of a run of medjax.train")
    parser.add_argument("--stage", help="whose model answers; default: the last stage")
    parser.add_argument("--image", required=True, help="any image file, DICOM, or NIfTI volume")
    parser.add_argument(
        "--prompt", required=True, action="append", help="the question; may be given several times"
    )
    part = parser.add_argument_group("part of the image file")
    part.add_argument("--axis", help="of a volume: axial, coronal or sagittal")
    part.add_argument("--slice", type=int, help="of a volume: its number along the axis, from 0")
    part.add_argument("--frame", type=int, help="of a file with several, from 0")
    part.add_argument(
        "--window", type=float, nargs=2, metavar=("LOW", "HIGH"), help="shown as black and white"
    )
    decode = parser.add_argument_group("how answers are chosen")
    for name, (kind, text) in _DECODE.items():
        decode.add_argument(f"--{name}", type=kind, help=text)
    decode.add_argument("--seed", type=int, help="of sample")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    return parser


def main() -> int:
    """The command."""
    args = _parser().parse_args()

    # Imported once the command line is known to be good: jax takes seconds.
    from medjax.pipelines.paligemma.ask import ask, part_of_image

    part = part_of_image(pathlib.Path(args.image), {key: getattr(args, key) for key in _PART})
    decode = {name: getattr(args, name) for name in _DECODE if getattr(args, name) is not None}
    replies = ask(args.workdir, part, args.prompt, stage=args.stage, decode=decode, seed=args.seed)
    if args.json:
        print(json.dumps({"image": args.image, "answers": replies}))
        return 0
    for reply in replies:
        confidence = math.exp(reply["log_prob_per_token"])
        print(f"{reply['prompt']}: {reply['text']}  (confidence {confidence:.2f})")
        for found in reply["boxes"]:
            y1, x1, y2, x2 = found["box"]
            print(f"  {found['label']}: rows {y1:g} to {y2:g}, columns {x1:g} to {x2:g} (pixels)")
    return 0


if __name__ == "__main__":
    cli.run(main)
