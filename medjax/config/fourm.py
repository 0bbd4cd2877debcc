"""The keys of 4M's configs: image tokenizers, the mask codec, and 4M itself."""

from typing import Any

from medjax.config import family
from medjax.config.family import Family

KINDS = ("fourm", "tokenizer", "mask_codec")


def _keys() -> dict[str, Any]:
    keys = family.common(towers=("encoder", "decoder"))
    return keys | {
        "family": "fourm",
        "kind": "fourm",  # what a stage trains: fourm, tokenizer (of images or masks), mask_codec
        # Modalities of one's own: name -> ConfigDict(kind=..., ...), see modalities/table.py.
        "modalities": {},
        # Kind tokenizer: whose tokens it makes. Kind mask_codec: whose masks it learns.
        "modality": "",
        # encoder, decoder, quantizer (each with its type), channels, mean, std; of a mask codec
        # quantizer alone: its decay, commitment, restart_below.
        "tokenizer": {},
        # How far a tokenizer's images are from the true ones: l2 or l1; masks: cross_entropy. A
        # mask codec's: l2 or l1.
        "reconstruction": "",
        "min_pixels": 64,  # kind mask_codec: of a class in an image, to be learned
        # Kind fourm; init also of kind mask_codec: an npz file of PaliGemma's format.
        "model": "",  # an official name, or ConfigDict(width=..., encoder_depth=..., ...)
        # Weights: a folder of apple/ml-4m's format, or medjax model folder; none: those that the
        # stage of kind fourm before it ended with, if there is one.
        "init": "",
        "inputs": (),  # names of the modalities that are read
        "targets": (),  # and of those that are predicted
        # Who makes the tokens of which modality: the name of a stage, or a tokenizer's folder.
        "tokenizers": {},
        "wordpiece": "",  # the texts' tokenizer; none: that of `init`, else one is trained
        "wordpiece_vocab_size": 30_000,  # of a trained one, at most
        "wordpiece_sentinels": 200,
        "wordpiece_bins": 1000,  # of a box's coordinates
        "masking": {
            "input_tokens": (128, 128),  # least and greatest number; drawn for each sample
            "target_tokens": (128, 128),
            "encoder_length": 0,  # of the packed input; 0: the greatest number
            "decoder_length": 0,
        },
        "loss": {
            "weighting": "token",  # every token alike, modality: every modality, logit: every logit
            "label_smoothing": 0.0,
        },
        # The end of a run.
        "evaluate": {
            "batch_size": 32,
            "examples": 0,  # at most so many of each test set; 0: all
            "group": "",  # what intervals are over; see PaliGemma's
            "directions": (),  # such as "t1 -> caption" or "t1, caption -> tok_tissue"
            "shown": 4,  # samples of each direction in the picture
            # How images are made: see decoding/fourm/steps.py.
            "scheme": "roar",
            "num_steps": 8,
            "token_schedule": "cosine",  # of maskgit: cosine (few tokens first) or linear
            "temperature": 0.0,
            "temperature_schedule": "constant",  # of images; or linear, or onex:LOWEST:POWER
            "top_k": 0,  # so many most probable tokens to draw from; 0: all
            "top_p": 1.0,
            "guidance": 1.0,
        },
        "export": {"fourm": True},
    }


FAMILY = Family(
    name="fourm",
    keys=_keys,
    source={
        "source": "",
        "split": "",
        "image_root": "",
        "weight": 1.0,
        "modalities": (),  # of its samples; none: all that the stage reads or predicts
        # By modality, one number for each component of a mixture; else the table's.
        "input_alphas": {},
        "target_alphas": {},
        "keep": {},
        "mixture": (),  # weights of the components; none: even
        "input_tokens": (),  # else masking's
        "target_tokens": (),
    },
    open=(
        *family.OPEN, "modalities", "tokenizer", "tokenizers",
        r"data\.\w+\.[^.]+\.(input_alphas|target_alphas|keep)",
    ),
    whole_run=(
        *family.WHOLE_RUN, "modalities", "wordpiece", "wordpiece_vocab_size",
        "wordpiece_sentinels", "wordpiece_bins",
    ),
    choices={
        **family.CHOICES,
        "kind": KINDS,
        "reconstruction": ("", "l1", "l2", "cross_entropy"),
        "loss.weighting": ("token", "modality", "logit"),
        "evaluate.scheme": ("maskgit", "roar"),
        "evaluate.token_schedule": ("cosine", "linear"),
    },
    at_least={
        **family.AT_LEAST, "wordpiece_vocab_size": 1, "wordpiece_sentinels": 0,
        "wordpiece_bins": 1, "min_pixels": 1,
        "masking.encoder_length": 0, "masking.decoder_length": 0,
        "evaluate.shown": 1, "evaluate.num_steps": 1, "evaluate.temperature": 0,
        "evaluate.top_k": 0,
    },
)  # fmt: skip
