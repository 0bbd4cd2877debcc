"""Text to ids and back for 4M: WordPiece, trained on one's own texts.

As apple/ml-4m builds it (`fourm/utils/tokenizer/text_tokenizer.py`): BERT's normalisation and
splitting, and before the pieces these tokens, whose ids are counted from 0:

    [PAD] [UNK] [SOS] [EOS]
    [S_0] [S_1] ...             sentinels, which stand for spans that are masked (arXiv:1910.10683)
    v0=0 v0=1 ... v0=999        coordinates of boxes: x and y of one corner, then of the other,
    v1=0 ... v3=999             in bins of the image's size

The file is the `tokenizers` library's own JSON, so that the original's can be read, too.
"""

import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from medjax.errors import UserError
from medjax.files import write_whole

SPECIAL = ("[PAD]", "[UNK]", "[SOS]", "[EOS]")
NUM_SENTINELS = 200
NUM_BINS = 1000
NUM_COORDINATES = 4
_PREFIX = "##"
_MARKUP = re.compile(r"\[(?:PAD|UNK|SOS|EOS|S_\d+)\]|v[0-3]=\d+")


def sentinel(index: int) -> str:
    """The spelling of a sentinel."""
    return f"[S_{index}]"


def coordinate(axis: int, bin_: int) -> str:
    """The spelling of a coordinate: `axis` of 0 to 3, `bin_` of 0 to 999."""
    return f"v{axis}={bin_}"


class WordPiece:
    """A WordPiece tokenizer with 4M's special tokens. Threads may share one.

    Attributes:
      vocab_size: V, number of ids.
      pad_id, unk_id, sos_id, eos_id: of the special tokens.
      sentinel_ids: of [S_0], [S_1], ..., as many as there are.
      coordinate_ids: of v0=0, v0=1, ... for each of the four; all of a length.
      text: content of its file.
    """

    def __init__(self, text: str, name: str = "the tokenizer"):
        """Reads the JSON of the `tokenizers` library.

        Args:
          text: content of a file.
          name: what error messages call it, usually its path.

        Raises:
          UserError: not a WordPiece tokenizer, or one without 4M's special tokens.
        """
        library = _library()
        self.text, self.name = text, name
        try:
            self._marked = library.Tokenizer.from_str(text)
            self._plain = library.Tokenizer.from_str(text)
        except Exception as error:  # the library raises nothing more exact
            raise UserError(f"{name} is no file of the tokenizers library: {error}") from error
        if not isinstance(self._marked.model, library.models.WordPiece):
            kind = type(self._marked.model).__name__
            raise UserError(f"{name} holds a {kind} tokenizer; 4M's is WordPiece")
        self._plain.encode_special_tokens = True
        self.vocab_size: int = self._marked.get_vocab_size()
        missing = [token for token in SPECIAL if self._marked.token_to_id(token) is None]
        if missing:
            raise UserError(f"{name} has no {', '.join(missing)}; train a tokenizer with medjax")
        self.pad_id, self.unk_id, self.sos_id, self.eos_id = map(self._id, SPECIAL)
        self.sentinel_ids = self._run(sentinel)
        self.coordinate_ids = tuple(
            self._run(lambda i, axis=axis: coordinate(axis, i)) for axis in range(NUM_COORDINATES)
        )
        if len({len(ids) for ids in self.coordinate_ids}) > 1:
            counts = [len(ids) for ids in self.coordinate_ids]
            raise UserError(f"{name} has {counts} bins of v0= to v3=, which must be as many each")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "WordPiece":
        """Reads a file.

        Raises:
          UserError: no such file, or not a fitting tokenizer.
        """
        path = Path(path)
        try:
            return cls(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"Cannot read the tokenizer {path}: {error}. Give the path of a WordPiece "
                "tokenizer's JSON file."
            ) from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the file as it was read, whole or not at all."""
        write_whole(path, self.text.encode())

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Tokenizes a text, without adding anything to it.

        Args:
          text: any text; the spelling of a special token in it is ordinary characters ...
          allow_special: ... except, if true, for sentinels, coordinates and the rest.

        Returns:
          Token ids; a word that pieces cannot spell is [UNK].

        Raises:
          UserError: the text holds half a surrogate pair, which is no character.
        """
        _check_characters(text)
        return (self._marked if allow_special else self._plain).encode(text).ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids up to the first [EOS]; [PAD] and [SOS] are silent.

        Case and spaces are not those of the text that the ids were made of: WordPiece keeps
        neither. Sentinels and coordinates come out in their spelling.

        Raises:
          UserError: an id beyond the vocabulary.
        """
        kept = []
        for i in map(int, ids):
            if not 0 <= i < self.vocab_size:
                raise UserError(f"{self.name}: {i} is no id of its vocabulary of {self.vocab_size}")
            if i == self.eos_id:
                break
            if i not in (self.pad_id, self.sos_id):
                kept.append(i)
        return self._marked.decode(kept, skip_special_tokens=False)

    def box(self, bins: Sequence[int]) -> list[int]:
        """The ids of a box: one bin for each of v0 to v3.

        Raises:
          UserError: a bin that there is not, or not four of them.
        """
        count = len(self.coordinate_ids[0])
        if len(bins) != NUM_COORDINATES or not all(0 <= b < count for b in bins):
            raise UserError(
                f"{self.name}: {list(bins)} is no box; one has {NUM_COORDINATES} bins of 0 to "
                f"{count - 1}"
            )
        return [ids[b] for ids, b in zip(self.coordinate_ids, bins, strict=True)]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.text, self.name)

    def _id(self, token: str) -> int:
        return self._marked.token_to_id(token)

    def _run(self, spell) -> list[int]:
        """The ids of tokens that are numbered from 0 on."""
        ids: list[int] = []
        while (found := self._id(spell(len(ids)))) is not None:
            ids.append(found)
        return ids


def train_wordpiece(
    texts: Iterable[str],
    path: str | os.PathLike[str],
    vocab_size: int = 30_000,
    *,
    num_sentinels: int = NUM_SENTINELS,
    num_bins: int = NUM_BINS,
    lowercase: bool = True,
    min_frequency: int = 0,
) -> WordPiece:
    """Trains a tokenizer and writes its file.

    Args:
      texts: what to learn from; special tokens in them are left out.
      path: of the file to write; whole or not at all.
      vocab_size: ids at most, special ones included.
      num_sentinels: of [S_0], [S_1], ...; num_bins: of each of v0= to v3=.
      lowercase: whether case is dropped; accents go with it.
      min_frequency: pieces that occur less often are not learned.

    Returns:
      The tokenizer, as `WordPiece.load(path)` gives it. The same texts in the same order give the
      same file.

    Raises:
      UserError: there is no text, one that holds half a surrogate pair, or a vocabulary without
        room for the texts' characters.
    """
    library = _library()
    lines = [line for text in texts if (line := _MARKUP.sub(" ", text)).strip()]
    for line in lines:
        _check_characters(line)
    if not lines:
        raise UserError("A tokenizer cannot be trained without text.")
    numbered = [sentinel(i) for i in range(num_sentinels)]
    numbered += [coordinate(a, i) for a in range(NUM_COORDINATES) for i in range(num_bins)]
    added = [
        *SPECIAL,
        *(library.AddedToken(token, single_word=True, normalized=False) for token in numbered),
    ]
    tokenizer = library.Tokenizer(library.models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = library.normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = library.decoders.WordPiece(prefix=_PREFIX)
    # The library numbers the pieces within words in the order of a hash table that changes from
    # run to run, and ties between merges follow. As special tokens they have an order.
    inner = sorted({_PREFIX + c for word in _words(tokenizer, lines) for c in word[1:]})
    trainer = library.trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        show_progress=False,
        continuing_subword_prefix=_PREFIX,
        special_tokens=[*added, *inner],
    )
    tokenizer.train_from_iterator(lines, trainer)
    found = tokenizer.get_vocab_size()
    if found > vocab_size:
        raise UserError(
            f"A vocabulary of {vocab_size} has no room for {len(added)} special tokens and the "
            f"texts' characters, which are {found - len(added)} pieces. Ask for a larger one, or "
            "for fewer sentinels or bins."
        )
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = [t for t in data["added_tokens"] if t["content"] not in inner]
    trained = WordPiece(json.dumps(data, ensure_ascii=False), str(path))
    trained.save(path)
    return trained


def _check_characters(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"The text {text!r} holds half a surrogate pair at character {error.start}; write the "
            "whole character."
        ) from error


def _words(tokenizer: Any, lines: Iterable[str]) -> set[str]:
    """All words of texts, normalised."""
    return {
        word
        for line in lines
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(
            tokenizer.normalizer.normalize_str(line)
        )
    }


def _library() -> Any:
    """The `tokenizers` library, which only those need who tokenize text for 4M."""
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.normalizers
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError as error:
        raise UserError(
            "4M's texts need the tokenizers library: pip install 'tokenizers>=0.21,<1'"
        ) from error
    return tokenizers
