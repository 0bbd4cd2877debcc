"""From a sample's values to the arrays of a batch's row.

`TRANSFORMS` has a function for each content of the table. A new content is a new entry.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from jaxtyping import Int32, UInt8

from medjax.data.augment import Augment
from medjax.data.image import resize, to_float
from medjax.data.samples.sample import UNKNOWN, Box, Sample, check_value
from medjax.data.samples.vary import vary
from medjax.data.wordpiece import WordPiece
from medjax.errors import UserError
from medjax.modalities.boxes import encode_box, in_order
from medjax.modalities.table import (
    BOXES,
    EMBEDDINGS,
    IDS,
    IMAGE,
    IMAGE_TOKENS,
    KINDS,
    LABELS,
    PATCHES,
    SEQUENCE,
    SEQUENCE_EMBEDDINGS,
    SEQUENCE_TOKENS,
    TEXT,
    Modality,
)

Row = dict[str, np.ndarray]
RGB = 3


class Context(NamedTuple):
    """What a transform may need beside the value.

    Attributes:
      wordpiece: of texts; None where there are none.
      channels: that an image is to have, or how many classes there are; None where it is not said.
    """

    wordpiece: WordPiece | None
    channels: int | None


class Arrays(NamedTuple):
    """What a value becomes.

    Attributes:
      value: under the modality's name. more: under its name, a slash and these.
      truncated: whether something was cut off.
    """

    value: np.ndarray
    more: Mapping[str, np.ndarray] = {}
    truncated: bool = False


Transform = Callable[[Any, Modality, Context], Arrays]


def transform(
    sample: Sample,
    modalities: Sequence[Modality],
    wordpiece: WordPiece | None = None,
    channels: Mapping[str, int] | None = None,
) -> Row:
    """A row of a batch: of each modality what 4M, or its tokenizer, reads.

    Args:
      sample: has the values that the modalities are made of.
      modalities: what the row is to hold.
      wordpiece: of texts and boxes; may be None where there are none.
      channels: by modality that a tokenizer reads, the tokenizer's channels (of labels its
        classes); where it is not said, images have 3 and labels may be of any class.

    Returns:
      Under each modality's name, by its content: an image, float32 [S, S, C] in [-1, 1]; labels,
      int32 [S, S], `UNKNOWN` where there is no class; text and boxes, int32 [max_length] padded
      with zeros, and `<name>/length`, int32 []; of boxes also `<name>/chunks`, int32 [max_length],
      the number of the box that a token belongs to; ids, of an image int32 [n], of a sequence as
      text; embeddings, float32 [max_length, C] padded with zeros, and their `length`. And `id`,
      and `truncated`, bool []: something of a sequence was cut off.

    Raises:
      UserError: a value that is lacking, or not what its modality is made of.
    """
    return SampleTransform(modalities, wordpiece, channels)(sample)


class SampleTransform:
    """Maps a Sample, or a random variation of it, to the row of a batch. Threads may share one."""

    def __init__(
        self,
        modalities: Sequence[Modality],
        wordpiece: WordPiece | None = None,
        channels: Mapping[str, int] | None = None,
        augment: Augment | None = None,
    ):
        """See `transform`; and `samples.vary` for what `augment` does.

        Raises:
          UserError: a modality whose content has no transform or is not of its kind, or that
            needs what is not given, or two that take one value for different things.
        """
        self.modalities = tuple(modalities)
        self.wordpiece = wordpiece
        self.channels = dict(channels or {})
        self.augment = augment
        self._contents: dict[str, str] = {}
        for modality in self.modalities:
            _check(modality, self._context(modality))
            content = self._contents.setdefault(modality.value, modality.content)
            if content != modality.content:
                raise UserError(
                    f"modality {modality.name!r}: {modality.value!r} cannot be {modality.content} "
                    f"and {content}"
                )

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> Row:
        """The row of a sample, or of a variation of it."""
        values: dict[str, Any] = {}
        for modality in self.modalities:
            if modality.value not in values:
                value = sample.value(modality.value)
                with _named(sample, modality):
                    check_value(value, modality.content)
                values[modality.value] = value
        if rng is not None and self.augment:
            values = vary(values, self._contents, self.augment, rng)
        row: Row = {}
        truncated = False
        for modality in self.modalities:
            name = modality.name
            with _named(sample, modality):
                function = TRANSFORMS[modality.content]
                made = function(values[modality.value], modality, self._context(modality))
            row[name] = made.value
            row |= {f"{name}/{more}": array for more, array in made.more.items()}
            truncated |= made.truncated
        return row | {"id": np.asarray(sample.id), "truncated": np.asarray(truncated)}

    def _context(self, modality: Modality) -> Context:
        return Context(self.wordpiece, self.channels.get(modality.name))


@contextlib.contextmanager
def _named(sample: Sample, modality: Modality) -> Iterator[None]:
    """Errors say what they are about."""
    try:
        yield
    except UserError as error:
        raise UserError(
            f"{sample.where}: the sample {sample.id!r}: modality {modality.name!r}: {error}"
        ) from error


def _check(modality: Modality, context: Context) -> None:
    name, content, wordpiece = modality.name, modality.content, context.wordpiece
    if content not in TRANSFORMS:
        raise UserError(
            f"modality {name!r}: content {content!r} is none of {', '.join(TRANSFORMS)}"
        )
    kinds = _KINDS.get(content, KINDS)
    if modality.kind not in kinds:
        raise UserError(
            f"modality {name!r}: content {content!r} becomes {', '.join(kinds)}, and this is "
            f"{modality.kind}"
        )
    if content in (TEXT, BOXES):
        if wordpiece is None:
            raise UserError(f"modality {name!r}: {content} needs a WordPiece tokenizer")
        if wordpiece.vocab_size > (modality.vocab_size or 0):
            raise UserError(
                f"modality {name!r}: vocab_size is {modality.vocab_size}, and {wordpiece.name} has "
                f"{wordpiece.vocab_size} ids"
            )
    if content == IMAGE and (wanted := _channels(modality, context)) not in (1, RGB):
        raise UserError(f"modality {name!r}: an image has 1 or {RGB} channels, not {wanted}")


def _image(value: np.ndarray, modality: Modality, context: Context) -> Arrays:
    wanted = _channels(modality, context)
    image = grey(value) if wanted == 1 else value
    pixels = to_float(resize(image, _size(modality)))
    return Arrays(np.repeat(pixels, wanted, axis=2) if pixels.shape[2] < wanted else pixels)


def _labels(value: np.ndarray, modality: Modality, context: Context) -> Arrays:
    labels = nearest(value, _size(modality)).astype(np.int32)
    classes = UNKNOWN if context.channels is None else context.channels
    if bad := set(np.unique(labels[labels >= classes]).tolist()) - {UNKNOWN}:
        raise UserError(
            f"holds the class {min(bad)}; there are classes 0 to {classes - 1}, and {UNKNOWN} for "
            "what is unknown"
        )
    return Arrays(labels)


def _text(value: str, modality: Modality, context: Context) -> Arrays:
    wordpiece = cast(WordPiece, context.wordpiece)
    return _sequence([*wordpiece.encode(value), wordpiece.eos_id], modality)


def _boxes(value: tuple[Box, ...], modality: Modality, context: Context) -> Arrays:
    wordpiece = cast(WordPiece, context.wordpiece)
    parts = [encode_box(wordpiece, box) for box in in_order(value)] + [[wordpiece.eos_id]]
    # Whole boxes: as in the original, what begins with the first that does not fit is left out.
    length = modality.length
    fitting = [part for part, end in zip(parts, _ends(parts), strict=True) if end <= length]
    chunks = np.full(length, min(len(parts) - 1, length - 1), np.int32)
    belongs = [number for number, part in enumerate(fitting) for _ in part]
    chunks[: len(belongs)] = belongs
    made = _sequence([i for part in fitting for i in part], modality)
    more = {**made.more, "chunks": chunks}
    return Arrays(made.value, more, truncated=len(fitting) < len(parts))


def _ids(value: np.ndarray, modality: Modality, context: Context) -> Arrays:
    del context
    _check_ids(value, modality)
    if not modality.is_image:
        return _sequence(value, modality)
    if len(value) != modality.length:
        raise UserError(f"has {len(value)} ids instead of {modality.length}")
    return Arrays(value)


def _embeddings(value: np.ndarray, modality: Modality, context: Context) -> Arrays:
    del context
    if value.shape[1] != modality.channels:
        raise UserError(f"has embeddings {value.shape[1]} wide instead of {modality.channels}")
    array = np.zeros((modality.length, value.shape[1]), np.float32)
    kept = value[: modality.length]
    array[: len(kept)] = kept
    length = np.asarray(len(kept), np.int32)
    return Arrays(array, {"length": length}, truncated=len(kept) < len(value))


# What kinds of modality a content becomes; those that are not named may become any.
_KINDS: dict[str, tuple[str, ...]] = {
    IMAGE: (PATCHES, IMAGE_TOKENS),
    LABELS: (IMAGE_TOKENS,),
    TEXT: (SEQUENCE,),
    BOXES: (SEQUENCE,),
    IDS: (IMAGE_TOKENS, SEQUENCE, SEQUENCE_TOKENS),
    EMBEDDINGS: (SEQUENCE_EMBEDDINGS,),
}
TRANSFORMS: dict[str, Transform] = {
    IMAGE: _image,
    LABELS: _labels,
    TEXT: _text,
    BOXES: _boxes,
    IDS: _ids,
    EMBEDDINGS: _embeddings,
}


def grey(image: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "H W 1"]:
    """The luma of ITU-R BT.601, rounded as Pillow does: of a grey image its own values."""
    if image.shape[2] == 1:
        return image
    weights = np.array([19595, 38470, 7471], np.uint32)
    return ((image @ weights + 2**15) >> 16).astype(np.uint8)[..., None]


def nearest(labels: UInt8[np.ndarray, "H W"], size: int) -> UInt8[np.ndarray, "size size"]:
    """Resizes to a square: each pixel is that of the source which its middle lies in."""
    height, width = labels.shape
    middles = np.arange(size) * 2 + 1
    return labels[(middles * height // (2 * size))[:, None], middles * width // (2 * size)]


def _sequence(ids: Sequence[int] | np.ndarray, modality: Modality) -> Arrays:
    array = np.zeros(modality.length, np.int32)
    kept = np.asarray(ids[: modality.length], np.int32)
    _check_ids(kept, modality)
    array[: len(kept)] = kept
    length = np.asarray(len(kept), np.int32)
    return Arrays(array, {"length": length}, truncated=len(kept) < len(ids))


def _check_ids(ids: Int32[np.ndarray, "n"], modality: Modality) -> None:
    most = modality.vocab_size or 0
    if len(ids) and (ids.min() < 0 or ids.max() >= most):
        bad = ids.min() if ids.min() < 0 else ids.max()
        raise UserError(f"holds the id {bad}; ids go from 0 to {most - 1}")


def _size(modality: Modality) -> int:
    return modality.image_size or 0


def _channels(modality: Modality, context: Context) -> int:
    return (modality.channels if modality.kind == PATCHES else context.channels) or RGB


def _ends(parts: Sequence[Sequence[int]]) -> list[int]:
    return np.cumsum([len(part) for part in parts]).tolist()
