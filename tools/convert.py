#!/usr/bin/env python
"""Converts PaliGemma checkpoints between big_vision, Hugging Face, PEFT and medjax, and 4M's
between apple/ml-4m and medjax.

Examples:
  convert.py --from big_vision --to huggingface --model-config paligemma-3b-224 \\
      --input pt_224.npz --tokenizer tokenizer.model --output hf/
  convert.py --from medjax --to peft --input runs/retina/model --base-model hf/ --output adapter/
  convert.py --from peft --to huggingface --input adapter/ --base hf/ --output merged/
  convert.py --from 4m --to medjax --input 4M-7_B/ --tokenizer wordpiece.json --output model/
  convert.py --from medjax --to 4m --input runs/mri/model --output official/

An adapter is merged in float32 with the weights that it belongs to: those that it names, or --base.
Weights that come with an adapter beside them are given as --input, the adapter as --adapter.
A 4M model with modalities of one's own is read from its official form with --model-config, the
model.json that it had in medjax.
"""

import argparse
import json
import pathlib
import tempfile

import peers
from tqdm import tqdm

from medjax import cli
from medjax.checkpoints import convert, huggingface, peft, probe, tensors
from medjax.models.fourm import FourMConfig


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    path = pathlib.Path
    add = parser.add_argument
    add("--from", dest="source", required=True, choices=convert.SOURCES)
    add("--to", dest="target", required=True, choices=convert.TARGETS)
    add("--input", required=True, type=path, help="npz file of big_vision, or a folder")
    add("--output", required=True, type=path, help="npz file of big_vision, or a new folder")
    add("--model-config", help="official name or JSON file; needed for an npz file")
    add("--dtype", help="float32, bfloat16 or float16; by default as the input")
    add("--base", type=path, help="weights of an input that is an adapter alone, in any format")
    add("--adapter", type=path, help="PEFT or medjax adapter folder, merged in float32")
    add("--keep-adapter", action="store_true", help="with --to medjax: do not merge the adapter")
    add("--other-base", action="store_true", help="merge an adapter onto another base than its own")
    add("--tokenizer", type=path, help="sentencepiece or WordPiece file; default: the input's own")
    add("--base-model", help="with --to peft: what the adapter names as its base")
    add("--overwrite", action="store_true", help="replace an earlier result")
    add("--verify", action="store_true", help="run input and output, print how far logits differ")
    add("--json", action="store_true", help="print one JSON object on stdout")
    return parser.parse_args()


def _run(args: argparse.Namespace) -> dict:
    options = {k: v for k, v in vars(args).items() if k not in ("verify", "json")}
    request = convert.Request(**options)
    source = convert.open_source(request)
    total = len(source.checkpoint.arrays)
    bar = tqdm(total=total, unit="parameter", delay=1, disable=args.target == "peft")
    with bar:
        report = convert.convert(request, source, tick=lambda name: bar.update())
    if args.verify:
        report["max_logit_difference"] = _verify(request, source)
        if isinstance(source.checkpoint.config, FourMConfig):
            report["arrays_read_back"] = _compare_arrays(request, source)
    return report


def _compare_arrays(request: convert.Request, source: convert.Source) -> int:
    """How many arrays of the output are exactly those that were to be written: all.

    4M's original is no package to ask, as transformers is for PaliGemma.

    Raises:
      RuntimeError: any differs.
    """
    wanted = convert.result(request, source)
    written = convert.open_any_model(request.output, wanted.config)
    if wrong := tensors.differing(wanted, written):
        raise RuntimeError(f"{request.output}: {len(wrong)} arrays differ: {', '.join(wrong[:5])}")
    return len(wanted.arrays)


def _verify(request: convert.Request, source: convert.Source) -> dict[str, float]:
    """Largest absolute logit difference between the input in medjax and whoever can run it.

    The input's adapter is applied, not merged, so that the merge is verified as well.
    """
    checkpoint, adapter = source.checkpoint, source.adapter
    question = probe.any_probe(checkpoint.config)
    wanted = probe.logits(checkpoint, question, adapter)
    found = {}

    def ask(what: str, folder: pathlib.Path, lora: pathlib.Path | None = None) -> None:
        """What transformers, or PEFT on it, computes; or a word that it cannot be asked."""
        if absent := peers.missing(["torch", "transformers", *(["peft"] if lora else [])]):
            cli.say(f"{what}: not compared; not installed: {', '.join(absent)}")
        else:
            found[what] = peers.huggingface_logits(folder, question, lora)

    lora = request.input if request.source == "peft" else request.adapter
    if convert.is_huggingface(source.weights) and adapter is None:
        ask("input in transformers", source.weights)
    if convert.is_huggingface(source.weights) and lora and (lora / peft.CONFIG).is_file():
        ask("input in PEFT", source.weights, lora)
    if request.target == "huggingface":
        ask("output in transformers", request.output)
    if request.target == "peft":
        written = convert.open_any_adapter(request.output)
        found["output in medjax"] = probe.logits(checkpoint, question, written)
        with tempfile.TemporaryDirectory() as folder:
            base = source.weights
            if not convert.is_huggingface(base):
                base = pathlib.Path(folder) / "base"
                huggingface.write_folder(checkpoint, base)
            ask("output in PEFT", base, request.output)
    else:
        written_model = convert.open_any_model(request.output, checkpoint.config)
        kept = convert.open_any_adapter(request.output) if request.keep_adapter else None
        found["output in medjax"] = probe.logits(written_model, question, kept)
    return {name: probe.difference(wanted, logits) for name, logits in found.items()}


def main() -> None:
    """Converts, and says what was done: on stderr, or with --json as one object on stdout."""
    args = _arguments()
    report = _run(args)
    if args.json:
        print(json.dumps(report))
    else:
        for key, value in report.items():
            cli.say(f"{key}: {value}")


if __name__ == "__main__":
    cli.run(main)
