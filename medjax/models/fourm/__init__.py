"""4M, one encoder-decoder for every modality (arXiv:2312.06647, arXiv:2406.09406), natively.

As in apple/ml-4m, `fourm/models`: what goes in is a few tokens of every modality, packed into one
sequence; what comes out are other tokens of every modality.
"""

from medjax.modalities.table import MODALITIES, Modality, lookup
from medjax.models.fourm.blocks import KeysValues
from medjax.models.fourm.config import FourMConfig
from medjax.models.fourm.losses import (
    ModalityLosses,
    by_modality,
    logit_mean,
    modality_mean,
    token_mean,
)
from medjax.models.fourm.model import FourM
from medjax.models.fourm.packed import DecoderInput, Encoded, EncoderInput
from medjax.models.fourm.variants import VARIANTS, variant

__all__ = [
    "MODALITIES", "VARIANTS", "DecoderInput", "Encoded", "EncoderInput", "FourM", "FourMConfig",
    "KeysValues", "Modality", "ModalityLosses", "by_modality", "logit_mean", "lookup",
    "modality_mean", "token_mean", "variant",
]  # fmt: skip
