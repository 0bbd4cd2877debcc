"""Asks a trained run's model about one image."""

import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from medjax import config as config_lib
from medjax import workdir as workdir_lib
from medjax.data import setup
from medjax.data.example import Example
from medjax.data.faults import BadExample
from medjax.data.image_files import ImageFile, image_file, read_image
from medjax.data.loc_tokens import decode_boxes
from medjax.data.tokenizer import Tokenizer
from medjax.decoding.config import DecodeConfig
from medjax.errors import UserError
from medjax.evaluation.asking import Asker
from medjax.evaluation.predictions import Prediction
from medjax.pipelines import weights
from medjax.pipelines.fit import own_mesh
from medjax.pipelines.libraries import prepare_libraries
from medjax.scaling import precision


def ask(
    path: str | pathlib.Path,
    image: ImageFile,
    prompts: Sequence[str],
    *,
    stage: str | None = None,
    decode: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> list[dict[str, Any]]:
    """Answers questions as the run's own evaluation would.

    Args:
      path: workdir of a run.
      image: what is asked about.
      prompts: questions in the words that the model was trained on, such as "detect brain".
      stage: whose model answers; the last one's if None.
      decode: settings that differ from the run's own, by the names of `DecodeConfig`. A method
        starts from its own defaults, since another method's settings mean nothing to it.
      seed: of sampling; the run's own if None.

    Returns:
      For each prompt: `prompt`, `text`, `log_prob` and `log_prob_per_token` (natural logarithms,
      end token included), and `boxes`, each with its `label` and `box` = [y1, x1, y2, x2] in pixels
      of the image as it was read.

    Raises:
      UserError: no such run, stage or image, a setting that cannot be used, or a prompt that is
        empty or longer than the run's text_length.
    """
    workdir = workdir_lib.Workdir.of(path)
    config = workdir_lib.read_config(path)
    names = config_lib.stage_names(config)
    stage = names[-1] if stage is None else stage
    if stage not in names:
        raise UserError(f"{path} has no stage {stage!r}; it has {', '.join(names)}")
    if not workdir.model(stage).exists():
        raise UserError(f"{path}: stage {stage} is not trained yet; run medjax.train")
    if seed is not None and not 0 <= seed < 2**31:
        raise UserError(f"seed {seed} is not in 0 to {2**31 - 1}")
    config = _configured(config_lib.stage_config(config, stage), decode or {}, len(prompts), seed)

    pixels = read_image(image)
    tokenizer = Tokenizer.load(workdir.tokenizer)
    examples = [
        Example(id=f"prompt {i}", pixels=pixels, prefix=prompt, image_key=image.key)
        for i, prompt in enumerate(prompts)
    ]
    _check_prompts(examples, config, tokenizer)
    prepare_libraries()
    dtype, mesh = precision.resolve(config.dtype), own_mesh(config)
    model = weights.load_result(workdir.model(stage), dtype, mesh)
    height, width = pixels.shape[:2]
    # With this device's own kernels: those of the run may be another device's.
    answers = Asker(tokenizer, config)(model, examples, stage)
    return [_reply(answer, height, width) for answer in answers]


def lines(replies: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Replies of `ask` in words."""
    for reply in replies:
        confidence = math.exp(reply["log_prob_per_token"])
        yield f"{reply['prompt']}: {reply['text']}  (confidence {confidence:.2f})"
        for found in reply["boxes"]:
            y1, x1, y2, x2 = found["box"]
            yield f"  {found['label']}: rows {y1:g} to {y2:g}, columns {x1:g} to {x2:g} (pixels)"


def part_of_image(path: pathlib.Path, options: Mapping[str, Any]) -> ImageFile:
    """An image file and which part of it is meant.

    Args:
      path: of the file; may begin with ~.
      options: the command line's `axis`, `slice`, `frame` and `window`; None where not given.

    Raises:
      UserError: an option is lacking, wrong, or means nothing to such a file.
    """
    given = {name: value for name, value in options.items() if value is not None}
    try:
        part = image_file(pathlib.Path(os.path.expanduser(path)), given)
    except BadExample as error:
        raise UserError(
            f"{error} On the command line these are --axis, --slice, --frame and --window."
        ) from error
    if part.plane is None and (idle := [f"--{n}" for n in ("axis", "slice") if n in given]):
        raise UserError(f"{path.name} is no NIfTI volume; leave {' and '.join(idle)} out")
    return part


def _configured(
    config: ConfigDict, decode: Mapping[str, Any], batch_size: int, seed: int | None
) -> ConfigDict:
    settings = config.decode.to_dict()
    if decode.get("method", settings["method"]) != settings["method"]:
        settings = {"max_new_tokens": settings["max_new_tokens"]}
    chosen = DecodeConfig(**settings | decode)
    config = config.copy_and_resolve_references()
    config.decode.update(vars(chosen))
    config.evaluate.batch_size = min(batch_size, config.evaluate.batch_size)
    config.seed = config.seed if seed is None else seed
    return config


def _check_prompts(examples: Sequence[Example], config: ConfigDict, tokenizer: Tokenizer) -> None:
    text = setup.make_transform(config, tokenizer).text
    for example in examples:
        if not example.prefix.strip():
            raise UserError("a prompt is empty; ask something, such as 'detect brain'")
        if (needed := text.tokens_needed(example)) > text.text_length:
            raise UserError(
                f"the prompt {example.prefix!r} takes {needed} tokens, the run's text_length is "
                f"{text.text_length}; shorten it"
            )


def _reply(answer: Prediction, height: int, width: int) -> dict[str, Any]:
    scale = (height, width, height, width)
    return {
        "prompt": answer.question,
        "text": answer.generated,
        "log_prob": answer.log_prob,
        "log_prob_per_token": answer.log_prob_per_token,
        "boxes": [
            {"label": label, "box": [round(c * s, 1) for c, s in zip(box, scale, strict=True)]}
            for box, label in decode_boxes(answer.generated)
        ],
    }
