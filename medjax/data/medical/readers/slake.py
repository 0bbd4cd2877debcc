"""SLAKE: questions in English and Chinese about CT, MRI and X-ray images, with boxes and masks.

Liu, Zhan, Xu, Ma, Yang and Wu, "SLAKE: a semantically-labeled knowledge-enhanced dataset for
medical visual question answering", ISBI 2021 (arXiv:2102.09542); the files are those of
med-vqa.com/slake and of huggingface.co/datasets/BoKelvin/SLAKE. A folder imgs/xmlab<n> has
source.jpg, mask.png, detection.json ([{"Liver": [x, y, width, height]}, ...] in pixels from the
upper left corner) and question.json, whose content is in the three files of questions, too.

Each language is divided for itself: an image may be in the English test part and in the Chinese
training part. It then is two records, "test/xmlab1" and "train/xmlab1", of one patient. The
boxes are asked for in the one that has the image's English questions.
"""

import collections
import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import PIL.Image

from medjax.data.faults import BadExample, FaultCounter
from medjax.data.loc_tokens import encode_box, encode_objects
from medjax.data.medical.dataset import Dataset
from medjax.data.medical.readers.json_records import member, read_records, short_text
from medjax.data.medical.readers.pairs import ImageFolder, Pair, gather, needed, stated_kind
from medjax.data.medical.record import FileImage, Question, Record
from medjax.errors import UserError

_log = logging.getLogger(__name__)

_FILES = {
    "train": ("train.json",),
    "validation": ("validate.json", "validation.json"),
    "test": ("test.json",),
}
_LANGUAGES = ("en", "zh")
_FACTS = ("base_type", "content_type")


def read(folder: Path, counter: FaultCounter) -> Iterator[Record]:
    """See `Dataset.read`. Questions of both languages are read; of images only the sizes are."""
    images = ImageFolder(folder, ("imgs/imgs", "imgs", "images"))
    pairs = [
        pair
        for split, names in _FILES.items()
        for pair in _pairs(_file(folder, names), split, images, counter)
    ]
    _warn_of_languages(pairs)
    with_boxes = _split_of_boxes(pairs)
    for record in gather(pairs):
        if with_boxes[record.patient] == record.split:
            yield _with_boxes(record, counter)
        else:
            yield record


def _file(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder} lacks {' or '.join(names)}: SLAKE is {DATASET.files}.")


def _pairs(path: Path, split: str, images: ImageFolder, counter: FaultCounter) -> Iterator[Pair]:
    for index, row in read_records(path, "qid"):
        qid = row.get("qid", "") if isinstance(row, dict) else ""
        where = f"{path}: record {index}, qid {qid}"
        try:
            yield _pair(row, split, images, where)
        except BadExample as fault:
            counter.add(BadExample(fault.reason, f"{where}: {fault}"))


def _pair(row: Any, split: str, images: ImageFolder, where: str) -> Pair:
    name = member(row, "img_name", str).strip()
    language = member(row, "q_lang", str).strip().lower()
    if language not in _LANGUAGES:
        raise BadExample("unknown language", f'"q_lang" is {language!r}: it must be "en" or "zh".')
    kind = stated_kind(member(row, "answer_type", str))
    asked = needed(member(row, "question", str), "question")
    answer = needed(member(row, "answer", str), "answer")
    qid = member(row, "qid", str).strip()
    image = images.image(name)
    folder = image.file.path.parent
    mask = folder / "mask.png"
    record = Record(
        id=f"{split}/{folder.name}",
        image=image,
        patient=folder.name,
        split=split,
        facts=_known(modality=short_text(row, "modality"), location=_location(row)),
        where=where,
        mask=FileImage.at(mask) if mask.is_file() else None,
    )
    facts = _known(answer_type=kind, triple=_triple(row), **{k: short_text(row, k) for k in _FACTS})
    name = f"{split}/{qid}"
    return record, Question(name, kind, asked, answer, language=language, facts=facts)


def _location(row: Mapping[str, Any]) -> str:
    """Such as "Abdomen" or "Brain Tissue", which the file writes with an underscore."""
    return short_text(row, "location").replace("_", " ")


def _triple(row: Mapping[str, Any]) -> str:
    """The knowledge that a question needs, "Liver | function | _"; "" where it needs none."""
    if row.get("base_type") == "vqa" or "triple" not in row:
        return ""
    return " | ".join(map(str, member(row, "triple", list)))


def _known(**facts: str) -> dict[str, str]:
    return {name: text for name, text in facts.items() if text}


def _warn_of_languages(pairs: list[Pair]) -> None:
    """Says once how many images one language tests and the other trains on."""
    images: dict[tuple[str, str], set[str]] = collections.defaultdict(set)
    for record, question in pairs:
        images[question.language, record.split].add(record.patient)
    shared = {
        image
        for tested in _LANGUAGES
        for trained in _LANGUAGES
        if tested != trained
        for image in images[tested, "test"] & images[trained, "train"]
    }
    if shared:
        _log.warning(
            "SLAKE: %d images of one language's test part are in the other's training part: keep "
            'one language, such as data.conditioning.languages=("en",), or accept the leak.',
            len(shared),
        )


def _split_of_boxes(pairs: list[Pair]) -> dict[str, str]:
    """The part in which an image's organs are asked for: that of its English questions, if any."""
    splits: dict[str, str] = {}
    for language in _LANGUAGES:
        for record, question in pairs:
            if question.language == language:
                splits.setdefault(record.patient, record.split)
    return splits


def _with_boxes(record: Record, counter: FaultCounter) -> Record:
    """The record with a question for each organ or finding that its detection.json has boxes of."""
    assert isinstance(record.image, FileImage)
    source = record.image.file.path
    path = source.parent / "detection.json"
    if not path.is_file():
        return record
    boxes: dict[str, list[tuple[str, str]]] = {}
    try:
        height, width = _size(source)
        for organ, corner_and_size in _objects(path):
            x, y, w, h = corner_and_size
            try:
                box = encode_box((y, x, y + h, x + w), height, width)
            except UserError as error:
                raise BadExample("damaged box", f"{path}: {organ}: {error}") from error
            boxes.setdefault(organ, []).append((box, organ))
    except BadExample as fault:
        counter.add(fault)
        return record
    questions = tuple(
        Question(
            id=f"{record.id}/detect/{organ}",
            task="detect",
            question=organ,
            answer=encode_objects(objects),
            form="detect",
            mode="pre_training",
        )
        for organ, objects in boxes.items()
    )
    return dataclasses.replace(record, questions=record.questions + questions)


def _size(path: Path) -> tuple[int, int]:
    """Height and width, from the file's head."""
    try:
        with PIL.Image.open(path) as image:
            return image.height, image.width
    except OSError as error:
        message = f"The image {path} can't be read ({error})."
        raise BadExample("unreadable image", message) from error


def _objects(path: Path) -> Iterator[tuple[str, list[float]]]:
    """Organs and findings, in small letters, with boxes: x, y, width, height in pixels."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BadExample("invalid JSON", f"{path} is not JSON ({error}).") from error
    objects = content if isinstance(content, list) else [content]
    for item in objects:
        if not isinstance(item, dict):
            raise BadExample(
                "damaged box", f"{path}: {item!r:.80} is no object of a name and a box."
            )
        for organ, box in item.items():
            if not (
                isinstance(box, list)
                and len(box) == 4
                and all(isinstance(v, int | float) and not isinstance(v, bool) for v in box)
                and min(box[2:]) > 0
            ):
                raise BadExample(
                    "damaged box",
                    f"{path}: {organ} is {box!r:.80}, not x, y, width and height in pixels.",
                )
            yield organ.strip().lower().replace("_", " "), box


DATASET = Dataset(
    name="slake",
    title="SLAKE 1.0",
    licence="CC BY 4.0",
    source="https://arxiv.org/abs/2102.09542, https://www.med-vqa.com/slake",
    files="train.json, validate.json, test.json and the folder imgs (imgs/xmlab<n>/source.jpg)",
    read=read,
    variants={"answer": ("closed", "open"), "detect": ("detect",)},
)
