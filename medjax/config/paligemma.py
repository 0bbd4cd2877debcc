"""The keys of PaliGemma's configs."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from medjax.config import family
from medjax.config.family import Family
from medjax.data.medical.conditioning import settings
from medjax.errors import UserError


def _keys() -> dict[str, Any]:
    keys = family.common(towers=("language_model",))  # and "vision_tower"
    keys["data"] |= {
        "on_long_text": "truncate",  # (and count) or error: a bad example
        # Passes over the training sources of each phase, one phase after another, such as (2.0,
        # 5.0) with sources whose `phase` is 0 or 1; then steps and epochs are 0. None: all at once.
        "phases": (),
        # Holds the folders of medical datasets, each called as the dataset: medpix2, slake, ...
        "manual_dir": "",
        # What is done to these, see data/medical/conditioning/settings.py.
        "conditioning": dataclasses.asdict(settings.Settings()),
    }
    return keys | {
        # What is trained.
        "model": "",  # an official name, a .json file, or ConfigDict(img=..., llm=...)
        "init": "",  # weights: big_vision .npz, Hugging Face folder or medjax model folder
        "tokenizer": "",  # sentencepiece file; none: the one of `init`, else one is trained
        "tokenizer_vocab_size": 256,  # of a trained tokenizer, loc and seg tokens not counted
        "ordered_loc_init": False,  # start loc tokens as smooth functions of their number
        "image_size": 224,  # pixels
        "text_length": 128,  # tokens of question and answer together, 2 at least
        "loss": {
            "normalize": "example",  # mean over examples of their mean, or token: over tokens
            "label_smoothing": 0.0,
        },
        # At each evaluation so many validation questions, evenly spaced, are answered, too.
        "eval_answers": 0,
        # The end of a run.
        "decode": {
            "method": "greedy",
            "max_new_tokens": 32,
            "temperature": 1.0,
            "top_p": 1.0,
            "num_samples": 1,
            "num_beams": 1,
            "length_penalty": 1.0,
        },
        "evaluate": {
            "batch_size": 32,
            "majority": True,  # also the majority answer of the training data
            "every_stage": True,  # also the model of each earlier stage
            # Also the last model's answers to the same questions with no image and with another's.
            "grounding": False,
            "examples": 0,  # at most so many of each test set; 0: all
            # The key of the data that says which examples depend on one another, such as
            # "patient": intervals are over these. None: the images.
            "group": "",
            # What answers are scored by: names and groups of evaluation/metrics/catalogue.py, such
            # as ("basic", "vqa", "text", "degeneration"). All but basic, vqa, detection and
            # degeneration need the extra eval.
            "metrics": ("basic",),
            # Of <seg> tokens, by which masks are scored by Dice: big_vision's vae-oid.npz,
            # or medjax's mask_codec.npz or its folder. None: boxes alone are scored.
            "mask_codec": "",
            "licence": "",  # of the model, for tables that compare systems
            # Keys of the data by which there are further tables: "modality", "answer_length", ...
            "by": (),
        },
        "export": {"huggingface": True, "verify": True, "dtype": "float32"},
    }


def _check(config: ConfigDict, where: str) -> None:
    phases = config.data.phases
    if not all(isinstance(epochs, int | float) and epochs > 0 for epochs in phases):
        raise UserError(f"{where}: data.phases is {phases}; write passes above 0, as (2.0, 5.0)")
    for name, source in config.data.train.items():
        if phases and not 0 <= source.phase < len(phases):
            raise UserError(
                f"{where}: data.train.{name}.phase is {source.phase}, but data.phases has "
                f"{len(phases)} passes: phases count from 0"
            )
    try:
        settings.check(settings.Settings(**config.data.conditioning.to_dict()))
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


FAMILY = Family(
    name="paligemma",
    keys=_keys,
    source={
        "source": "", "folder": "", "split": "", "tasks": (), "modes": (), "image_root": "",
        "weight": 1.0, "phase": 0,
    },
    open=family.OPEN,
    # What stages have in common: each starts with the model that the one before it has trained.
    whole_run=(
        *family.WHOLE_RUN, "model", "init", "tokenizer", "tokenizer_vocab_size", "image_size",
        "data.conditioning", "data.manual_dir",
    ),
    choices={
        **family.CHOICES,
        "loss.normalize": ("example", "token"),
        "data.on_long_text": ("truncate", "error"),
        "export.dtype": ("float32", "bfloat16", "float16"),
    },
    at_least={
        **family.AT_LEAST, "image_size": 1, "text_length": 2, "tokenizer_vocab_size": 1,
        "eval_answers": 0,
    },
    check=_check,
)  # fmt: skip
