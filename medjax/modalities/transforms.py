"""From a sample's values to the arrays of a batch's row.

`TRANSFORMS` has a function for each content of the table. A new content is a new entry.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

from medjax.data.image import resize, to_float
from medjax.data.samples.sample import UNKNOWN, Box, Sample
from medjax.data.wordpiece import WordPiece
from medjax.errors import UserError
from medjax.modalities.boxes import encode_box, in_order
from medjax.modalities.table import (
    BOXES,
    IDS,
    IMAGE,
    LABELS,
    PATCHES,
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
      text. And `id`, and `truncated`, bool []: something of a sequence was cut off.

    Raises:
      UserError: a value that is lacking, or not what its modality is made of.
    """
    row: Row = {}
    truncated = False
    values: dict[str, Any] = {}
    for modality in modalities:
        name = modality.name
        if modality.value not in values:
            values[modality.value] = sample.value(modality.value)
        context = Context(wordpiece, (channels or {}).get(name))
        try:
            made = function(modality)(values[modality.value], modality, context)
        except UserError as error:
            raise UserError(
                f"{sample.where}: the sample {sample.id!r}: modality {name!r}: {error}"
            ) from error
        row[name] = made.value
        row |= {f"{name}/{more}": array for more, array in made.more.items()}
        truncated |= made.truncated
    return row | {"id": np.asarray(sample.id), "truncated": np.asarray(truncated)}


def function(modality: Modality) -> Transform:
    """The transform of a modality's content.

    Raises:
      UserError: there is none.
    """
    if modality.content not in TRANSFORMS:
        raise UserError(
            f"modality {modality.name!r}: content {modality.content!r} is none of "
            f"{', '.join(TRANSFORMS)}"
        )
    return TRANSFORMS[modality.content]


def _image(value: Any, modality: Modality, context: Context) -> Arrays:
    size = _image_size(modality)
    if not (_is_array(value, np.uint8, 3) and value.shape[2] in (1, RGB)):
        raise _wrong(value, "uint8 [H, W, 1] or [H, W, 3]")
    wanted = modality.channels if modality.kind == PATCHES else context.channels or RGB
    if wanted not in (1, RGB):
        raise UserError(f"an image has 1 or {RGB} channels, not {wanted}")
    image = grey(value) if wanted == 1 else value
    pixels = to_float(resize(image, size))
    return Arrays(np.repeat(pixels, wanted, axis=2) if pixels.shape[2] < wanted else pixels)


def _labels(value: Any, modality: Modality, context: Context) -> Arrays:
    size = _image_size(modality)
    if not _is_array(value, np.uint8, 2):
        raise _wrong(value, "uint8 [H, W]")
    labels = nearest(value, size).astype(np.int32)
    classes = UNKNOWN if context.channels is None else context.channels
    if bad := set(np.unique(labels[labels >= classes]).tolist()) - {UNKNOWN}:
        raise UserError(
            f"holds the class {min(bad)}; there are classes 0 to {classes - 1}, and {UNKNOWN} for "
            "what is unknown"
        )
    return Arrays(labels)


def _text(value: Any, modality: Modality, context: Context) -> Arrays:
    if not isinstance(value, str):
        raise _wrong(value, "a text")
    wordpiece = _wordpiece(modality, context)
    return _sequence([*wordpiece.encode(value), wordpiece.eos_id], modality)


def _boxes(value: Any, modality: Modality, context: Context) -> Arrays:
    if not isinstance(value, tuple) or not all(isinstance(box, Box) for box in value):
        raise _wrong(value, "a tuple of boxes")
    wordpiece = _wordpiece(modality, context)
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


def _ids(value: Any, modality: Modality, context: Context) -> Arrays:
    del context
    if not modality.has_ids:
        raise UserError(f"{modality.kind} are not made of ids: name another content")
    if not _is_array(value, np.int32, 1):
        raise _wrong(value, "int32 [n]")
    _check_ids(value, modality)
    if not modality.is_image:
        return _sequence(value, modality)
    if len(value) != modality.length:
        raise UserError(f"has {len(value)} ids instead of {modality.length}")
    return Arrays(value)


TRANSFORMS: dict[str, Transform] = {
    IMAGE: _image,
    LABELS: _labels,
    TEXT: _text,
    BOXES: _boxes,
    IDS: _ids,
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


def _image_size(modality: Modality) -> int:
    if modality.image_size is None:
        raise UserError(f"{modality.kind} has no image_size, which an image needs")
    return modality.image_size


def _wordpiece(modality: Modality, context: Context) -> WordPiece:
    if context.wordpiece is None:
        raise UserError(f"{modality.content} needs a WordPiece tokenizer, and there is none")
    return context.wordpiece


def _ends(parts: Sequence[Sequence[int]]) -> list[int]:
    return np.cumsum([len(part) for part in parts]).tolist()


def _is_array(value: Any, dtype: Any, dimensions: int) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == dtype and value.ndim == dimensions


def _wrong(value: Any, expected: str) -> UserError:
    found = (
        f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else f"{value!r:.80}"
    )
    return UserError(f"is {found}; expected {expected}")
