"""Boxes and masks as words: the tokens `<loc0000>`..`<loc1023>` and `<seg000>`..`<seg127>`.

A box is four loc tokens in the order y1 x1 y2 x2, each coordinate one of 1024 bins of the image's
height or width; a label follows, and " ; " separates one object from the next. Source: the
PaliGemma report (arXiv:2407.07726) and google-research/big_vision (pp/tokenizer.py,
pp/proj/paligemma/segmentation.py).
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence

from medjax.errors import UserError

NUM_LOC = 1024
NUM_SEG = 128

LOC_TOKENS = tuple(f"<loc{i:04d}>" for i in range(NUM_LOC))
SEG_TOKENS = tuple(f"<seg{i:03d}>" for i in range(NUM_SEG))
EXTRA_TOKENS = LOC_TOKENS + SEG_TOKENS  # in the order of their ids

# Gemma's vocabulary has 256,000 pieces; PaliGemma's extra tokens follow.
GEMMA_PIECES = 256_000
GEMMA_LOC_IDS = range(GEMMA_PIECES, GEMMA_PIECES + NUM_LOC)
GEMMA_SEG_IDS = range(GEMMA_LOC_IDS.stop, GEMMA_LOC_IDS.stop + NUM_SEG)

# Only tokens that exist: `<loc1024>` and `<loc12>` are plain text.
_LOC = r"<loc(0\d{3}|10[01]\d|102[0-3])>"
_SEG = r"<seg(0\d{2}|1[01]\d|12[0-7])>"
LOC_REGEX = re.compile(_LOC, re.ASCII)
SEG_REGEX = re.compile(_SEG, re.ASCII)
EXTRA_REGEX = re.compile(f"{_LOC}|{_SEG}", re.ASCII)

_OBJECT_REGEX = re.compile(
    r"\s*".join([_LOC] * 4) + rf"(?P<codes>(?:\s*{_SEG})*)" + r"(?P<label>[^;<]*)", re.ASCII
)
# Of a mask, row by row of the codec's 4 x 4 places.
NUM_CODES_OF_MASK = 16

Box = tuple[float, float, float, float]


def encode_box(box_yxyx_pixels: Sequence[float], height: float, width: float) -> str:
    """Writes a box as four loc tokens.

    Args:
      box_yxyx_pixels: y1, x1, y2, x2 in pixels; y2 and x2 are the far edges, so that the box of a
        whole image is (0, 0, height, width).
      height: of the image, in pixels.
      width: of the image, in pixels.

    Returns:
      For example "<loc0000><loc0128><loc1023><loc0512>". Coordinates outside the image are clipped
      to it.

    Raises:
      UserError: the box is not four finite numbers with y1 <= y2 and x1 <= x2, or the image has
        no pixels.
    """
    box = [float(c) for c in box_yxyx_pixels]
    if len(box) != 4 or not all(math.isfinite(c) for c in box):
        raise UserError(f"A box needs four finite numbers y1, x1, y2, x2 in pixels, not {box}.")
    if not (height > 0 and width > 0):
        raise UserError(f"A box needs an image with pixels in it, not one of {height} x {width}.")
    y1, x1, y2, x2 = box
    if y1 > y2 or x1 > x2:
        raise UserError(f"The box {box} is inside out: its order is y1, x1, y2, x2, in pixels.")
    fractions = (y1 / height, x1 / width, y2 / height, x2 / width)
    bins = (min(max(math.floor(f * NUM_LOC), 0), NUM_LOC - 1) for f in fractions)
    return "".join(LOC_TOKENS[b] for b in bins)


def encode_objects(objects: Iterable[tuple[str, str]]) -> str:
    """Joins (box as `encode_box` writes it, label) pairs into one answer: "<box> a ; <box> b"."""
    return " ; ".join(f"{box} {label}" for box, label in objects)


def decode_boxes(text: str) -> list[tuple[Box, str]]:
    """Reads every well-formed box of an answer; whatever else the answer holds is passed over.

    Fewer than four loc tokens in a row, tokens that do not exist and boxes that are inside out
    yield nothing; seg tokens between a box and its label are skipped.

    Args:
      text: as a model wrote it, such as "<loc0001><loc0002><loc0003><loc0004> brain ; ...".

    Returns:
      For each object, in order: the box y1, x1, y2, x2 as fractions of height and width in [0, 1]
      (bin / 1023, as big_vision evaluates, so that a whole image's box comes back whole), and the
      label without surrounding spaces, "" if it has none.
    """
    return [(box, match["label"].strip()) for box, match in _objects(text)]


def decode_masks(text: str) -> list[tuple[Box, tuple[int, ...], str]]:
    """Reads every object of an answer that has a mask: a well-formed box and 16 seg tokens.

    Objects without a mask, or with another number of seg tokens, are passed over.

    Returns:
      For each object, in order: box and label as `decode_boxes` gives them, and between them the
      16 codes in [0, 128), as `models.mask_codec.MaskCodec.decode` takes them.
    """
    found = []
    for box, match in _objects(text):
        codes = tuple(int(code) for code in SEG_REGEX.findall(match["codes"]))
        if len(codes) == NUM_CODES_OF_MASK:
            found.append((box, codes, match["label"].strip()))
    return found


def _objects(text: str) -> Iterator[tuple[Box, re.Match[str]]]:
    for match in _OBJECT_REGEX.finditer(text):
        y1, x1, y2, x2 = (int(match.group(i)) / (NUM_LOC - 1) for i in range(1, 5))
        if y1 <= y2 and x1 <= x2:
            yield (y1, x1, y2, x2), match
