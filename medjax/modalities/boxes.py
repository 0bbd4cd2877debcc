"""Boxes as words of 4M's vocabulary, and back.

A box is `v0=xmin v1=ymin v2=xmax v3=ymax label`, each coordinate one of 1000 bins from one edge of
the image to the other. As in apple/ml-4m, `fourm/data/modality_transforms.py: DetectionTransform`,
boxes come in the order of their upper left corners' distance from the image's.
"""

from collections.abc import Iterable, Sequence

from medjax.data.samples.sample import Box
from medjax.data.wordpiece import WordPiece


def in_order(boxes: Iterable[Box]) -> list[Box]:
    """The nearest to the image's upper left corner first, by their own; ties as they come."""
    return sorted(boxes, key=lambda box: box.x1**2 + box.y1**2)


def encode_box(wordpiece: WordPiece, box: Box) -> list[int]:
    """The ids of a box and of its label."""
    last = len(wordpiece.coordinate_ids[0]) - 1
    bins = [round(part * last) for part in (box.x1, box.y1, box.x2, box.y2)]
    return wordpiece.box(bins) + wordpiece.encode(box.label)


def parse_boxes(wordpiece: WordPiece, ids: Sequence[int]) -> tuple[Box, ...]:
    """Reads every well-formed box of a text; whatever else it holds is passed over.

    No box are coordinates that lack, repeat or are out of their order, corners that are inside
    out, and a label that is empty or has anything but pieces of words in it.

    Args:
      ids: as a model wrote them; they end with the first [EOS]; [PAD] and [SOS] are silent.
    """
    bins = [{id_: bin_ for bin_, id_ in enumerate(of_axis)} for of_axis in wordpiece.coordinate_ids]
    coordinates = set().union(*bins)
    special = {wordpiece.unk_id, *wordpiece.sentinel_ids}
    ids = [i for i in map(int, ids) if i not in (wordpiece.pad_id, wordpiece.sos_id)]
    if wordpiece.eos_id in ids:
        ids = ids[: ids.index(wordpiece.eos_id)]
    starts = [i for i in range(len(ids) - len(bins) + 1) if _begins(ids[i:], bins)]
    boxes = []
    for start in starts:
        first = start + len(bins)
        stop = next((i for i in range(first, len(ids)) if ids[i] in coordinates), len(ids))
        label = ids[first:stop]
        known = all(0 <= i < wordpiece.vocab_size and i not in special for i in label)
        last = max(len(bins[0]) - 1, 1)
        x1, y1, x2, y2 = (
            of_axis[i] / last for of_axis, i in zip(bins, ids[start:first], strict=True)
        )
        if known and x1 <= x2 and y1 <= y2 and (text := wordpiece.decode(label).strip()):
            boxes.append(Box(text, y1, x1, y2, x2))
    return tuple(boxes)


def _begins(ids: Sequence[int], bins: Sequence[dict[int, int]]) -> bool:
    """Whether ids begin with a coordinate of each axis, in order."""
    return all(i in of_axis for of_axis, i in zip(bins, ids, strict=False))
