"""The flags of `medjax.generate`: which there are, and which mean something to which family."""

import argparse
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from medjax.errors import UserError

_Settings = Mapping[str, tuple[Callable[[str], Any], str]]


def guidance(text: str) -> float | dict[str, float]:
    """`"2"`, or weights of some conditions, `"t1=1.5,caption=1"`; raises ArgumentTypeError."""
    try:
        if "=" not in text:
            return float(text)
        pairs = [pair.rpartition("=") for pair in text.split(",")]
        return {name.strip(): float(weight) for name, _, weight in pairs}
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text} is neither a number nor weights such as t1=1.5,caption=1"
        ) from error


# name -> (type, help); the names and defaults are those of the run's config.
_SHARED: _Settings = {
    "temperature": (float, "of the draw; PaliGemma's only with --method=sample"),
    "top_p": (float, "draw from the most probable tokens that reach this probability"),
    "num_samples": (int, "PaliGemma: drawn, the most probable is shown; 4M: all are shown"),
    "seed": (int, "of all draws"),
}
_PALIGEMMA: _Settings = {
    "method": (str, "greedy, sample or beam"),
    "max_new_tokens": (int, "longest answer, in tokens"),
    "num_beams": (int, "of beam: unfinished answers kept"),
    "length_penalty": (float, "of beam: 0 for the most probable answer, more for longer ones"),
}
_FOURM: _Settings = {
    "scheme": (str, "of images: roar (random order) or maskgit (the surest tokens first)"),
    "num_steps": (int, "of images"),
    "token_schedule": (str, "of maskgit: cosine (few tokens first) or linear"),
    "temperature_schedule": (str, "of images: constant, linear or onex:LOWEST:POWER"),
    "top_k": (int, "draw from so many most probable tokens; 0: all"),
    "guidance": (guidance, "classifier-free: 2 for all conditions, or t1=1.5,caption=1"),
}
_ONLY = {
    "paligemma": ("image", "prompt", *_PALIGEMMA),
    "fourm": ("given", "make", "output", *_FOURM),
}
_NEEDED = {"paligemma": ("image", "prompt"), "fourm": ("given", "make")}


def parser(description: str | None) -> argparse.ArgumentParser:
    """The parser of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m medjax.generate",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--workdir", required=True, help="of a run of medjax.train")
    made.add_argument("--stage", help="whose model answers; default: the last stage")
    made.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    files = made.add_argument_group("part of the image files")
    files.add_argument("--axis", help="of volumes: axial, coronal or sagittal")
    files.add_argument("--slice", type=int, help="of volumes: its number along the axis, from 0")
    files.add_argument("--frame", type=int, help="of files with several, from 0")
    files.add_argument(
        "--window", type=float, nargs=2, metavar=("LOW", "HIGH"), help="shown as black and white"
    )
    ask = made.add_argument_group("PaliGemma")
    ask.add_argument("--image", help="any image file, DICOM, or NIfTI volume")
    ask.add_argument("--prompt", action="append", help="the question; may be given several times")
    make = made.add_argument_group("4M")
    make.add_argument("--given", action="append", metavar="MODALITY=VALUE", help="file or text;"
        " boxes and ids as in one's own data, in JSON or files of it, ids also .npy")  # fmt: skip
    make.add_argument("--make", action="append", metavar="MODALITY", help="made in this order")
    make.add_argument("--output", type=pathlib.Path, help="folder to write what was made into")
    both = made.add_argument_group("settings of both")
    for group, own in ((both, _SHARED), (ask, _PALIGEMMA), (make, _FOURM)):
        for name, (kind, text) in own.items():
            group.add_argument(f"--{name}", type=kind, help=text)
    return made


def check(args: argparse.Namespace, family: str) -> None:
    """Whether a command line asks something of a family of models.

    Raises:
      UserError: it has flags of another family, or lacks what is needed.
    """
    needed = " and ".join(f"--{flag}" for flag in _NEEDED[family])
    others = [flag for other, own in _ONLY.items() if other != family for flag in own]
    if idle := [f"--{flag}" for flag in others if getattr(args, flag) is not None]:
        raise UserError(
            f"{args.workdir} is a run of {family}, which does not know {', '.join(idle)}; it is "
            f"asked with {needed}, see --help"
        )
    if any(getattr(args, flag) is None for flag in _NEEDED[family]):
        raise UserError(f"{args.workdir} is a run of {family}, which is asked with {needed}")


def settings(args: argparse.Namespace, family: str) -> dict[str, Any]:
    """How answers are chosen, as far as the command line says it; without `seed`."""
    own = ("num_samples", *_PALIGEMMA) if family == "paligemma" else _FOURM
    return _said(args, ("temperature", "top_p", *own))


def part(args: argparse.Namespace) -> dict[str, Any]:
    """Which part of an image file is meant, as far as the command line says it."""
    return _said(args, ("axis", "slice", "frame", "window"))


def given(texts: Sequence[str]) -> dict[str, str]:
    """`["t1=scan.png", ...]` by modality.

    Raises:
      UserError: one is not of that form, or a modality is given twice.
    """
    values: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise UserError(f"--given {text}: write MODALITY=VALUE, such as t1=scan.png")
        if name in values:
            raise UserError(f"--given {name} is there twice")
        values[name] = value
    return values


def _said(args: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}
