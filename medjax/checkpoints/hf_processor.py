"""Tokenizer and image processor files of a Hugging Face folder.

A sentencepiece model becomes a tokenizer.json of huggingface/tokenizers: byte-pair encoding whose
merges are all the ways to put a piece together from two others, best piece first, which is the
order in which sentencepiece merges. Control pieces, the newline and other user-defined pieces, loc,
seg and `<image>` are added tokens, which are cut out of a text before anything is merged.
"""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from sentencepiece import sentencepiece_model_pb2

from medjax.checkpoints import hf_config
from medjax.checkpoints.tensors import Checkpoint
from medjax.data.loc_tokens import EXTRA_TOKENS
from medjax.data.tokenizer import Tokenizer
from medjax.errors import UserError
from medjax.models.config import PaliGemmaConfig

SENTENCEPIECE = "tokenizer.model"
IMAGE_TOKEN = "<image>"
FILES = (
    SENTENCEPIECE,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "preprocessor_config.json",
    "processor_config.json",
)
_GEMMA_IDS = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
_BILINEAR = 2  # PIL.Image.Resampling.BILINEAR, which medjax and big_vision resize with


@dataclasses.dataclass(frozen=True)
class Processor:
    """What a folder says about text and images.

    Attributes:
      image_token_id: what stands for an image patch.
      special_ids: bos_token_id, eos_token_id, pad_token_id.
      tokenizer: sentencepiece model file to translate, or None.
      copy_from: a Hugging Face folder whose files are copied instead, or None.
    """

    image_token_id: int
    special_ids: Mapping[str, Any]
    tokenizer: pathlib.Path | None = None
    copy_from: pathlib.Path | None = None

    def write(self, folder: pathlib.Path, config: PaliGemmaConfig) -> None:
        """Writes the files into `folder`."""
        if self.copy_from is not None:
            for name in FILES:
                if (self.copy_from / name).is_file():
                    shutil.copyfile(self.copy_from / name, folder / name)
            return
        _write(folder / "preprocessor_config.json", _image_processor(config))
        if self.tokenizer is not None:
            shutil.copyfile(self.tokenizer, folder / SENTENCEPIECE)
            tokenizer = Tokenizer.load(self.tokenizer)
            pieces = read_pieces(tokenizer)
            _write(folder / "tokenizer.json", tokenizer_json(tokenizer, pieces))
            _write(folder / "tokenizer_config.json", _tokenizer_config(tokenizer, pieces))


def load(checkpoint: Checkpoint, copy_from: pathlib.Path | None) -> Processor:
    """The processor of a checkpoint that is to be written.

    Raises:
      UserError: the tokenizer has more ids than the model has rows.
    """
    rows = checkpoint.config.llm.vocab_size
    if copy_from is not None:
        data = json.loads((copy_from / "config.json").read_text())
        text = data.get("text_config") or {}
        ids = {key: data.get(key, text.get(key, _GEMMA_IDS[key])) for key in _GEMMA_IDS}
        image = data.get("image_token_index", data.get("image_token_id"))
        if image is None:
            image = hf_config.image_token(rows, None)
        return Processor(image, ids, copy_from=copy_from)
    if checkpoint.tokenizer is None:
        return Processor(hf_config.image_token(rows, None), _GEMMA_IDS)
    tokenizer = fitting_tokenizer(checkpoint, checkpoint.tokenizer)
    ids = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
    image = hf_config.image_token(rows, tokenizer.vocab_size)
    return Processor(image, ids, tokenizer=checkpoint.tokenizer)


def fitting_tokenizer(checkpoint: Checkpoint, path: pathlib.Path) -> Tokenizer:
    """The tokenizer of a file.

    Raises:
      UserError: it is none, or has more ids than the model has rows.
    """
    tokenizer, rows = Tokenizer.load(path), checkpoint.config.llm.vocab_size
    if tokenizer.vocab_size > rows:
        raise UserError(
            f"{path} has {tokenizer.vocab_size} ids, loc and seg included, but "
            f"{checkpoint.where} only {rows} rows; it is another model's tokenizer"
        )
    return tokenizer


def _write(path: pathlib.Path, data: dict) -> None:
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _image_processor(config: PaliGemmaConfig) -> dict[str, Any]:
    return {
        "processor_class": "PaliGemmaProcessor",
        "image_processor_type": "SiglipImageProcessor",
        "image_seq_length": config.num_patches,
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": config.image_size, "width": config.image_size},
        "resample": _BILINEAR,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }


_PROTO: Any = sentencepiece_model_pb2  # generated code, opaque to type checkers
_PIECE: Any = _PROTO.ModelProto.SentencePiece


def read_pieces(tokenizer: Tokenizer) -> list[Any]:
    """The pieces of a tokenizer's model file.

    Raises:
      UserError: it cannot be written as a tokenizer.json.
    """
    name, proto = tokenizer.name, _PROTO.ModelProto.FromString(tokenizer.model)
    if proto.trainer_spec.model_type != _PROTO.TrainerSpec.BPE:
        raise UserError(
            f"{name} is no byte-pair encoding; only such tokenizers are written for Hugging Face"
        )
    if proto.normalizer_spec.name != "identity" or proto.normalizer_spec.remove_extra_whitespaces:
        raise UserError(
            f"{name} normalizes text ({proto.normalizer_spec.name}); only tokenizers that leave it "
            "as it is, as Gemma's, are written for Hugging Face"
        )
    return list(proto.pieces)


def tokenizer_json(tokenizer: Tokenizer, pieces: list[Any]) -> dict[str, Any]:
    """tokenizer.json of a sentencepiece model with loc, seg and `<image>`."""
    vocab = {piece.piece: i for i, piece in enumerate(pieces)}
    special = {piece.piece for piece in pieces if piece.type in (_PIECE.CONTROL, _PIECE.UNKNOWN)}
    cut_out = {
        piece.piece: vocab[piece.piece]
        for piece in pieces
        if piece.piece in special
        or (
            piece.type == _PIECE.USER_DEFINED
            and tokenizer.encode(piece.piece) == [vocab[piece.piece]]
        )
    }
    cut_out |= dict(zip(EXTRA_TOKENS, (*tokenizer.loc_ids, *tokenizer.seg_ids), strict=True))
    cut_out[IMAGE_TOKEN] = tokenizer.vocab_size
    unknown = next(piece.piece for piece in pieces if piece.type == _PIECE.UNKNOWN)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": i,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": token in special or token == IMAGE_TOKEN,
            }
            for token, i in sorted(cut_out.items(), key=lambda item: item[1])
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": _merges(pieces),
        },
    }


def _merges(pieces: list[Any]) -> list[tuple[str, str]]:
    """Every pair of pieces that makes a piece, best result first."""
    normal = [piece for piece in pieces if piece.type == _PIECE.NORMAL]
    known = {piece.piece for piece in normal}
    return [
        (text[:cut], text[cut:])
        for text in (p.piece for p in sorted(normal, key=lambda p: -p.score))
        for cut in range(1, len(text))
        if text[:cut] in known and text[cut:] in known
    ]


def _tokenizer_config(tokenizer: Tokenizer, pieces: list[Any]) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "processor_class": "PaliGemmaProcessor",
        "bos_token": pieces[tokenizer.bos_id].piece,
        "eos_token": pieces[tokenizer.eos_id].piece,
        "pad_token": pieces[tokenizer.pad_id].piece,
        "unk_token": next(p.piece for p in pieces if p.type == _PIECE.UNKNOWN),
        "extra_special_tokens": {"image_token": IMAGE_TOKEN},
        "padding_side": "left",
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        "model_max_length": 8192,
    }
