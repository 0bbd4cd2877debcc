"""Text to token ids and back, with sentencepiece and PaliGemma's loc and seg tokens.

A tokenizer is a sentencepiece model file with 1,024 loc and 128 seg tokens after its own pieces;
where the file holds them already they keep their ids. Gemma's file and the small ones that
`train_tokenizer` makes are read the same way. Source of the layout: google-research/big_vision
(pp/ops_text.py, `tokensets=["loc", "seg"]`) and the PaliGemma report (arXiv:2407.07726).

What a user types must not steer the model behind the user's back. Sentencepiece never yields a
*control* piece (`<bos>`, `<eos>`, `<pad>`) from text, but it does yield *user-defined* ones, and
Gemma's file has `<start_of_turn>`, `<unused0>`, `<mask>`, `[@BOS@]` and more among them. So every
user-defined piece that looks like markup is turned into a control piece when a file is loaded: it
keeps its id, and its spelling in a text becomes ordinary characters. Left as they are: runs of
newlines, spaces and tabs, HTML's formatting tags, and pieces without brackets, all of which Gemma
learned as text and Hugging Face yields too.
"""

import hashlib
import io
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sentencepiece
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2

from medjax.data.loc_tokens import (
    EXTRA_REGEX,
    EXTRA_TOKENS,
    GEMMA_LOC_IDS,
    GEMMA_PIECES,
    GEMMA_SEG_IDS,
    NUM_LOC,
)
from medjax.errors import UserError
from medjax.files import write_whole

_Model: Any = sentencepiece_model_pb2.ModelProto  # type: ignore[attr-defined]  # made at import

_HTML_TAG = re.compile(
    r"</?(table|caption|thead|tbody|tfoot|tr|th|td|h[1-6]|blockquote"
    r"|strong|em|b|i|u|s|sub|sup|code)>"
)
_EXTRA_NUMBERS = {token: i for i, token in enumerate(EXTRA_TOKENS)}


class Tokenizer:
    """A sentencepiece model with PaliGemma's loc and seg tokens. Threads may share one.

    Attributes:
      vocab_size: number of ids, loc and seg included (257,152 for Gemma).
      bos_id, eos_id, pad_id: ids of the control pieces.
      newline_id: the single id of "\\n", which ends a prefix (108 for Gemma).
      loc_ids, seg_ids: the ids of `<loc0000>`.. and `<seg000>`.., in order.
      model, name: content of the model file, and what error messages call it.
      fingerprint: SHA-256 of the model file, as hexadecimal digits.
    """

    def __init__(self, model: bytes, name: str = "the tokenizer"):
        """Reads a serialized sentencepiece model.

        Args:
          model: content of a model file.
          name: what error messages call it, usually its path.

        Raises:
          UserError: not a sentencepiece model, or not one that prompts can be packed with.
        """
        self.model = model
        self.name = name
        proto = _parse(model, name)
        first_extra = _first_extra_id(proto, name)
        _disarm_markup(proto)
        self._sp = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())

        self.vocab_size = max(len(proto.pieces), first_extra + len(EXTRA_TOKENS))
        self.bos_id: int = self._sp.bos_id()
        self.eos_id: int = self._sp.eos_id()
        self.pad_id: int = self._sp.pad_id()
        self.loc_ids = range(first_extra, first_extra + NUM_LOC)
        self.seg_ids = range(self.loc_ids.stop, first_extra + len(EXTRA_TOKENS))
        self.fingerprint = hashlib.sha256(model).hexdigest()
        if min(self.bos_id, self.eos_id, self.pad_id) < 0:
            raise UserError(
                f"{name}: a tokenizer needs <bos>, <eos> and <pad>; this one lacks one."
            )
        if first_extra >= GEMMA_PIECES:
            self._check_gemma()
        newline = self._sp.encode("\n")
        if len(newline) != 1 or newline[0] == self._sp.unk_id():
            raise UserError(
                f"{name}: the newline that ends a prefix must be one token, here it is {newline}. "
                "Train the tokenizer with medjax, or give Gemma's tokenizer.model."
            )
        self.newline_id: int = newline[0]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Tokenizer":
        """Reads a model file, or the `tokenizer.model` of a folder.

        Raises:
          UserError: no such file, or not a fitting sentencepiece model.
        """
        path = Path(path)
        if path.is_dir():
            path = path / "tokenizer.model"
        try:
            model = path.read_bytes()
        except OSError as error:
            raise UserError(
                f"Cannot read the tokenizer {path}: {error.strerror}. Give the path of a "
                "sentencepiece model file (Gemma's is called tokenizer.model)."
            ) from error
        return cls(model, str(path))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the model file as it was read, whole or not at all."""
        write_whole(path, self.model)

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Tokenizes a text, without adding anything to it.

        Args:
          text: any text; the spelling of a special token in it is ordinary characters ...
          allow_special: ... except, if true, for loc and seg tokens.

        Returns:
          Token ids, never those of bos, eos, pad or another control piece.

        Raises:
          UserError: the text holds half a surrogate pair, which is no character.
        """
        if not allow_special:
            return self._encode_plain(text)
        ids: list[int] = []
        end = 0
        for match in EXTRA_REGEX.finditer(text):
            ids += self._encode_plain(text[end : match.start()])
            ids.append(self.loc_ids.start + _EXTRA_NUMBERS[match.group()])
            end = match.end()
        return ids + self._encode_plain(text[end:])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids up to the first eos; bos, pad and other control pieces are silent.

        loc and seg tokens come out in their spelling, with spaces only where the text has them, as
        in "<loc0001><loc0002><loc0003><loc0004> brain". An id that no piece has (a model's
        vocabulary may be padded) shows as U+FFFD.

        Raises:
          ValueError: an id is negative.
        """
        parts: list[str] = []
        plain: list[int] = []

        def flush():
            if plain:
                parts.append(self._sp.decode(plain))
                plain.clear()

        for i in map(int, ids):
            if i < 0:
                raise ValueError(f"{i} is no token id.")
            if i == self.eos_id:
                break
            if self.loc_ids.start <= i < self.seg_ids.stop:
                flush()
                parts.append(EXTRA_TOKENS[i - self.loc_ids.start])
            elif i >= self._sp.get_piece_size():
                flush()
                parts.append("\ufffd")
            elif i not in (self.bos_id, self.pad_id):
                plain.append(i)
        flush()
        return "".join(parts)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.model, self.name)

    def _encode_plain(self, text: str) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"The text {text!r} holds half a surrogate pair at character {error.start}; "
                "write the whole character."
            ) from error
        return self._sp.encode(text) if text else []

    def _check_gemma(self) -> None:
        found = (self.pad_id, self.eos_id, self.bos_id, self.loc_ids, self.seg_ids)
        if found != (0, 1, 2, GEMMA_LOC_IDS, GEMMA_SEG_IDS):
            raise UserError(
                f"{self.name} is as large as Gemma's tokenizer but differs from it: pad, eos, bos "
                f"are {found[:3]} instead of (0, 1, 2), loc and seg ids {found[3:]} instead of "
                f"({GEMMA_LOC_IDS}, {GEMMA_SEG_IDS}). Give PaliGemma's or Gemma's tokenizer.model."
            )


def train_tokenizer(
    texts: Iterable[str], path: str | os.PathLike[str], vocab_size: int = 512
) -> Tokenizer:
    """Trains a small tokenizer in the manner of Gemma's and writes its model file.

    Byte-pair encoding with single digits, whitespace kept, a newline as one piece, and bytes for
    whatever the texts do not show, so that any text survives the way there and back. The same
    texts in the same order give the same file.

    Args:
      texts: what to learn from; loc and seg tokens in them are left out.
      path: of the file to write; whole or not at all.
      vocab_size: pieces at most, 261 of them bytes, control pieces and newline; loc and seg come
        on top.

    Returns:
      The tokenizer, as `Tokenizer.load(path)` gives it.

    Raises:
      UserError: there is no text, or the vocabulary is too small for the texts' characters.
    """
    lines = [
        line for text in texts for line in EXTRA_REGEX.sub("\n", text).split("\n") if line.strip()
    ]
    if not lines:
        raise UserError("A tokenizer cannot be trained without text.")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            byte_fallback=True,
            split_digits=True,
            user_defined_symbols=["\n"],
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            pad_id=0,
            eos_id=1,
            bos_id=2,
            unk_id=3,
            pad_piece="<pad>",
            eos_piece="<eos>",
            bos_piece="<bos>",
            unk_piece="<unk>",
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(
            f"The tokenizer cannot be trained with a vocabulary of {vocab_size} ({error}). "
            "Ask for a larger one."
        ) from error
    tokenizer = Tokenizer(model.getvalue(), str(path))
    tokenizer.save(path)
    return tokenizer


def _parse(model: bytes, name: str) -> Any:
    try:
        proto = _Model.FromString(model)
    except DecodeError as error:
        raise UserError(
            f"{name} is no sentencepiece model file. Give the file that is called tokenizer.model, "
            "not tokenizer.json, and check that its download is complete."
        ) from error
    if not proto.pieces:
        raise UserError(f"{name} is empty: a sentencepiece model has pieces.")
    if proto.normalizer_spec.add_dummy_prefix:
        # Texts are tokenized in parts (prefix, newline, suffix); each part would gain a space.
        raise UserError(
            f"{name} puts a space before every text (add_dummy_prefix). PaliGemma's prompts need a "
            "tokenizer that does not, as Gemma's."
        )
    return proto


def _first_extra_id(proto: Any, name: str) -> int:
    """The id of `<loc0000>`: where the file has it, else after the last piece."""
    found = [(i, p.piece) for i, p in enumerate(proto.pieces) if p.piece in _EXTRA_NUMBERS]
    if not found:
        return len(proto.pieces)
    first = found[0][0]
    if found != list(enumerate(EXTRA_TOKENS, start=first)):
        raise UserError(
            f"{name} holds {len(found)} loc and seg tokens, from id {first} on, but not all "
            f"{len(EXTRA_TOKENS)} of them in a row and in order. Give PaliGemma's or Gemma's file."
        )
    return first


def _disarm_markup(proto: Any) -> None:
    """Makes control pieces of the user-defined pieces that a user's text must not yield."""
    for piece in proto.pieces:
        if piece.type == _Model.SentencePiece.USER_DEFINED and not _is_text(piece.piece):
            piece.type = _Model.SentencePiece.CONTROL


def _is_text(piece: str) -> bool:
    return not set(piece) & set("<>[]") or _HTML_TAG.fullmatch(piece) is not None
