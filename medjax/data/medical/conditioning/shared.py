"""What two parts of data have in common: patients, images, captions, copies of images."""

import collections
import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from medjax.data.medical.conditioning import hashes
from medjax.data.medical.conditioning.placeholders import says_nothing
from medjax.data.medical.conditioning.settings import Settings
from medjax.data.medical.record import Record

PATIENT, IMAGE, SYNPIC, CAPTION, COPY = KINDS = (
    "same patient", "same image", "same synpic id", "same caption", "near-duplicate",
)  # fmt: skip
# Shorter captions say what many images show; so does one that so many patients have.
_WORDS, _PATIENTS = 8, 6
_SYNPIC = re.compile(r"synpic(\d+)")


@dataclasses.dataclass(frozen=True)
class Leak:
    """Two images, one of training and one held out, that have something in common.

    Attributes:
      kind: one of `KINDS`.
      train, held_out: the images.
      parts: where each is, such as ("train", "test"), after the name of its dataset if that is
        another.
      detail: what they have in common: the patient, the file's name, the caption, the distance of
        hashes.
    """

    kind: str
    train: Record
    held_out: Record
    parts: tuple[str, str]
    detail: str


def find(
    train: Sequence[Record],
    held_out: Sequence[Record],
    *,
    distance: float = Settings.hash_distance,
    parts: tuple[str, str] = ("train", "held out"),
    one_dataset: bool = True,
) -> tuple[Leak, ...]:
    """Looks for whatever two parts share.

    Where several images share a key, such as a patient, each of them is in a pair, but not every
    pair is listed: each image held out with the first of `train`, and each of `train` with the
    first held out. Near-duplicates are listed in all pairs, but for those of one patient.

    Args:
      train, held_out: the parts; images with hashes are compared by these, too.
      distance: of hashes, of 64 bits, up to which images are near-duplicates.
      parts: what the two are called.
      one_dataset: whether ids mean the same in both.

    Returns:
      By kind, then in the order of `train` and `held_out`.
    """
    stock = _stock_captions([*train, *held_out])
    keys: dict[str, Callable[[Record], Iterable[str]]] = {
        PATIENT: lambda r: [r.patient] if r.patient and one_dataset else [],
        IMAGE: lambda r: [r.image.key, r.id] if one_dataset else [r.image.key],
        SYNPIC: _synpics,
        CAPTION: lambda r: _captions(r) - stock,
    }
    leaks = [
        # Of a file the name alone: reports do not tell where files lie.
        Leak(kind, train[i], held_out[j], parts, os.path.basename(key) if kind == IMAGE else key)
        for kind, keys_of in keys.items()
        for i, j, key in _shared(train, held_out, keys_of)
    ]
    for i, j, apart in hashes.pairs(
        [r.hashes for r in train], [r.hashes for r in held_out], distance
    ):
        if not (one_dataset and train[i].patient and train[i].patient == held_out[j].patient):
            detail = f"{apart:.1f} of {hashes.SCALE} bits differ"
            leaks.append(Leak(COPY, train[i], held_out[j], parts, detail))
    return tuple(leaks)


def _shared(
    one: Sequence[Record], other: Sequence[Record], keys_of: Callable[[Record], Iterable[str]]
) -> Iterator[tuple[int, int, str]]:
    """Pairs of indices with the key that they share, in order; see `find`."""
    by_key: tuple[dict[str, list[int]], ...] = ({}, {})
    for index, records in zip(by_key, (one, other), strict=True):
        for i, record in enumerate(records):
            for key in keys_of(record):
                index.setdefault(key, []).append(i)
    pairs: dict[tuple[int, int], str] = {}
    for key, mine in by_key[0].items():
        theirs = by_key[1].get(key, [])
        for pair in [*((mine[0], j) for j in theirs), *((i, theirs[0]) for i in mine if theirs)]:
            pairs.setdefault(pair, key)
    for (i, j), key in sorted(pairs.items()):
        yield i, j, key


def _synpics(record: Record) -> set[str]:
    """MedPix's numbers of images, which other datasets kept."""
    if record.facts.get("synpic"):
        return {record.facts["synpic"]}
    names = (record.id, record.image.key.rpartition("/")[2])
    return {number for name in names for number in _SYNPIC.findall(name)}


def _captions(record: Record) -> set[str]:
    """What is said of the image, without case and punctuation, if it says anything of its own."""
    texts = [q.answer for q in record.questions if q.form == "caption"]
    plain = (
        " ".join(re.findall(r"\w+", text.casefold()))
        for text in (*texts, record.facts.get("caption", ""))
    )
    return {text for text in plain if text.count(" ") >= _WORDS - 1 and not says_nothing(text)}


def _stock_captions(records: Sequence[Record]) -> set[str]:
    """Captions that many patients have."""
    of_caption: dict[str, set[str]] = collections.defaultdict(set)
    for record in records:
        for caption in _captions(record):
            of_caption[caption].add(record.patient or record.id)
    return {text for text, patients in of_caption.items() if len(patients) >= _PATIENTS}
