"""4M's masking: budgets, random tokens of images, spans of sequences, and packing."""

from medjax_kernels.masking.api import SUPPORT, masking, pack
from medjax_kernels.masking.packed import DecoderTokens, EncoderTokens, Masked, Part
from medjax_kernels.masking.scheme import MaskingScheme, Modality

__all__ = [
    "SUPPORT",
    "DecoderTokens",
    "EncoderTokens",
    "Masked",
    "MaskingScheme",
    "Modality",
    "Part",
    "masking",
    "pack",
]
