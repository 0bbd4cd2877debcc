"""Cached, batched, jitted decoding for PaliGemma; for 4M, see `fourm`."""

from medjax.decoding.answers import Answers
from medjax.decoding.config import METHODS, DecodeConfig
from medjax.decoding.decode import Decoder, decode

__all__ = ["METHODS", "Answers", "DecodeConfig", "Decoder", "decode"]
