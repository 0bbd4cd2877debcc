"""The WordPiece file that goes with a 4M model."""

import pathlib

from medjax.data.wordpiece import WordPiece
from medjax.errors import UserError
from medjax.modalities.table import BOXES, SEQUENCE, TEXT
from medjax.models.fourm import FourMConfig


def check(config: FourMConfig, path: pathlib.Path, where: str) -> None:
    """Raises UserError unless a file is a WordPiece tokenizer whose ids all texts of a model have.

    Args:
      where: what error messages call the model.
    """
    ids = WordPiece.load(path).vocab_size
    for modality in config.modalities:
        is_text = modality.kind == SEQUENCE and modality.content in (TEXT, BOXES)
        if is_text and ids > (modality.vocab_size or 0):
            raise UserError(
                f"{path} has {ids} ids, but modality {modality.name!r} of {where} only "
                f"{modality.vocab_size} (vocab_size); it is another model's tokenizer"
            )
