"""MedPix 2.0: CT and MR images of MedPix's cases, with captions, histories and diagnoses.

Source: Siragusa, Contino, La Ciura, Alicata, Pirrone: "MedPix 2.0: A Comprehensive Multimodal
Biomedical Data Set for Advanced AI Applications with Retrieval Augmented Generation and Knowledge
Graphs", https://arxiv.org/abs/2407.02994; files: https://github.com/CHILab1/MedPix-2.0, folder
MedPix-2-0. A case is an object of Case_topic.json, an image one of Descriptions.json, linked by
U_id; in the files "TAC" is CT. A location is the organ system under which MedPix files the case.
"""

import collections
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from medjax.data.faults import BadExample, FaultCounter
from medjax.data.medical.dataset import Dataset
from medjax.data.medical.readers import medpix2_splits
from medjax.data.medical.readers.json_records import long_text, member, read_records, short_text
from medjax.data.medical.readers.wordings import worded
from medjax.data.medical.record import FileImage, Question, Record
from medjax.errors import UserError

_log = logging.getLogger(__name__)

CASES, DESCRIPTIONS, IMAGES = "Case_topic.json", "Descriptions.json", "images"
_SUBFOLDER = "MedPix-2-0"  # of the authors' repository

_PRE_TRAINING, _ALIGNMENT = "pre_training", "alignment"
# Task: the fact that answers it, and when a model should learn it.
_TASKS = {
    "caption": ("caption", _PRE_TRAINING),
    "modality": ("modality", _PRE_TRAINING),
    "plane": ("plane", _PRE_TRAINING),
    "location": ("location", _PRE_TRAINING),
    "image_findings": ("caption", _PRE_TRAINING),
    "history": ("history", _ALIGNMENT),
    "findings": ("findings", _ALIGNMENT),
    "diagnosis": ("diagnosis", _ALIGNMENT),
    "differential": ("differential", _ALIGNMENT),
    "treatment": ("treatment", _ALIGNMENT),
    "discussion": ("discussion", _ALIGNMENT),
}
# Facts by the keys that hold them, of `Case` and `Topic`.
_OF_CASE = {
    "history": "History", "findings": "Findings", "differential": "Differential Diagnosis",
    "exam": "Exam", "treatment": "Treatment & Follow Up", "discussion": "Discussion",
    "diagnosis_by": "Diagnosis By",
}  # fmt: skip
_OF_TOPIC = {"disease_discussion": "Disease Discussion", "keywords": "Keywords"}
# What MedPix stores where nobody chose a code of the American College of Radiology.
_NO_ACR_CODE = ("-1.-1", "0.0")

# A location names a part of the body if it holds one of these words, or one that begins with one of
# these stems. Locations are MedPix's organ systems, and whatever contributors typed in their stead.
_BODY_WORDS = {
    "arm", "back", "bile", "blood", "body", "bone", "brain", "breast", "chest", "colon", "cord",
    "ear", "ears", "eye", "eyes", "face", "foot", "hand", "head", "heart", "hip", "jaw", "knee",
    "leg", "limb", "liver", "lobe", "lobes", "lung", "lungs", "mouth", "neck", "nose", "orbit",
    "pelvis", "rib", "ribs", "sacrum", "sinus", "skin", "skull", "spine", "throat", "trunk",
    "wrist",
}  # fmt: skip
_BODY_STEMS = (
    "abdom", "adrenal", "ankle", "aorta", "aortic", "arter", "axilla", "biliary", "bladder",
    "bowel", "bronch", "cardiac", "cardio", "cereb", "cervical", "cranio", "cranial", "elbow",
    "endocrin", "esophag", "extremit", "facial", "femor", "gastr", "generali", "genit", "gynec",
    "hemat", "hepat", "integument", "intestin", "joint", "kidney", "larynx", "lumbar", "lymph",
    "mammo", "mandib", "mediastin", "mening", "multisystem", "muscle", "muscul", "nerv", "neuro",
    "obstetr", "oesophag", "orbital", "ovar", "pancrea", "pelvic", "periton", "pharyn", "pituitar",
    "pleura", "prostat", "pulmon", "rectal", "rectum", "renal", "reproduct", "respirat", "sacral",
    "scrot", "shoulder", "skelet", "spinal", "spleen", "stomach", "systemic", "testi", "thorac",
    "thorax", "thyroid", "trachea", "ureter", "urethra", "urinary", "urolog", "uter", "vascul",
    "venous", "ventric", "vertebr",
)  # fmt: skip


class _Case(NamedTuple):
    """A case: its facts, the images that it lists, and where it was read."""

    facts: Mapping[str, str]
    images: tuple[str, ...]
    where: str


def read(folder: Path, counter: FaultCounter) -> Iterator[Record]:
    """The images of MedPix 2.0 in the order of Descriptions.json; see `Dataset.read`.

    A location that names no part of the body is unknown; how many there are is logged. Captions
    that are placeholders are kept: whether they are learnt from is conditioning's to say.
    """
    root = _root(folder)
    faulty: set[str] = set()  # cases and images of which a fault was told already
    cases = _cases(root / CASES, counter, faulty)
    splits = medpix2_splits.read(root, counter)
    owners = {image: case for case, known in cases.items() for image in known.images}
    not_anatomy: collections.Counter[str] = collections.Counter()
    seen: dict[str, int] = {}
    for index, row in read_records(root / DESCRIPTIONS, "U_id"):
        where = _where(root / DESCRIPTIONS, index, row)
        try:
            image = str(member(row, "image", str)).strip()
            patient = str(member(row, "U_id", str)).strip()
            if image in seen:
                raise BadExample(
                    "duplicate id", f"the image {image} is that of record {seen[image]}."
                )
            seen[image] = index
            if patient in faulty:
                continue
            if patient not in cases:
                raise BadExample("no case", f"{CASES} has no case with this U_id.")
            if (owner := owners.get(image, patient)) != patient:
                raise BadExample("two cases", f"{CASES} has the image {image} in case {owner}.")
            split = splits.of(patient)
            path = root / IMAGES / f"{image}.png"
            if not path.is_file():
                raise BadExample("missing image", f"the image {path} does not exist.")
            facts = _facts(row, cases[patient].facts, not_anatomy)
        except BadExample as fault:
            counter.add(BadExample(fault.reason, f"{where}: {fault}"))
            continue
        yield Record(
            id=image,
            image=FileImage.at(path),
            patient=patient,
            split=split,
            questions=_questions(image, facts),
            facts=facts,
            where=where,
        )
    _check_described(root, cases, seen, counter)
    if not_anatomy:
        named = ", ".join(f"{text!r} ({count})" for text, count in sorted(not_anatomy.items()))
        _log.warning(
            "%s: locations that name no part of the body are unknown: %s.",
            root / DESCRIPTIONS, named,
        )  # fmt: skip


def _root(folder: Path) -> Path:
    for root in (folder, folder / _SUBFOLDER):
        if (root / CASES).is_file():
            if not (root / DESCRIPTIONS).is_file():
                raise UserError(f"{root} has no {DESCRIPTIONS}. It must hold {DATASET.files}.")
            if not (root / IMAGES).is_dir():
                raise UserError(
                    f"{root} has no folder {IMAGES}: unpack the images there. It must hold "
                    f"{DATASET.files}."
                )
            return root
    raise UserError(f"{folder} has no {CASES}. It must hold {DATASET.files}.")


def _where(path: Path, index: int, row: Any) -> str:
    name = row.get("U_id") if isinstance(row, Mapping) else None
    return f"{path}: record {index}" + (f" (U_id {name})" if isinstance(name, str) else "")


def _cases(path: Path, counter: FaultCounter, faulty: set[str]) -> dict[str, _Case]:
    cases: dict[str, _Case] = {}
    for index, row in read_records(path, "U_id"):
        where = _where(path, index, row)
        try:
            name = str(member(row, "U_id", str)).strip()
            if name in cases:
                raise BadExample("duplicate id", f"the case is that of {cases[name].where}.")
            try:
                facts = _facts_of_case(row)
                images = [
                    str(image).strip()
                    for key in ("TAC", "MRI")
                    for image in (member(row, key, list) if row.get(key) is not None else ())
                ]
            except BadExample:
                faulty.add(name)
                raise
        except BadExample as fault:
            counter.add(BadExample(fault.reason, f"{where}: {fault}"))
            continue
        cases[name] = _Case(facts, tuple(images), where)
    return cases


def _facts_of_case(row: Any) -> dict[str, str]:
    case = member(row, "Case", dict)
    topic = member(row, "Topic", dict)
    member(case, "Case Diagnosis", object, "case")
    facts = {
        "diagnosis": short_text(case, "Case Diagnosis"),
        "title": short_text(case, "Title") or short_text(topic, "Title"),
        "category": short_text(topic, "Category"),
        "acr_code": short_text(topic, "ACR Code"),
    }
    facts |= {fact: long_text(case, key) for fact, key in _OF_CASE.items()}
    facts |= {fact: long_text(topic, key) for fact, key in _OF_TOPIC.items()}
    return facts


def _facts(
    row: Mapping[str, Any], of_case: Mapping[str, str], not_anatomy: collections.Counter[str]
) -> dict[str, str]:
    """All that is known of an image."""
    description = member(row, "Description", dict)
    for key in ("Caption", "Modality", "Plane"):
        member(description, key, object, "description")
    location = short_text(row, "Location")
    if location and not _is_anatomy(location):
        not_anatomy[location] += 1
        location = ""
    synpic = re.search(r"synpic(\d+)", str(row["image"]))
    facts = {
        "type": short_text(row, "Type"),
        "modality": short_text(description, "Modality"),
        "plane": short_text(description, "Plane"),
        "location": location,
        "location_category": short_text(row, "Location Category"),
        "sex": short_text(description, "Sex").lower(),
        "age": short_text(description, "Age"),
        "synpic": synpic[1] if synpic else "",
        "caption": long_text(description, "Caption"),
    }
    code = short_text(description, "ACR Codes")
    own_code = {} if code in ("", *_NO_ACR_CODE) else {"acr_code": code}
    known = {**of_case, **facts, **own_code}
    if known["acr_code"] in _NO_ACR_CODE:
        known["acr_code"] = ""
    return {name: text for name, text in known.items() if text}


def _is_anatomy(location: str) -> bool:
    words = re.findall(r"[a-z]+", location.lower())
    return any(word in _BODY_WORDS or word.startswith(_BODY_STEMS) for word in words)


def _questions(image: str, facts: Mapping[str, str]) -> tuple[Question, ...]:
    return tuple(
        Question(
            id=f"{image}/{task}",
            task=task,
            question="" if task == "caption" else worded(task, image),
            answer=facts[fact],
            form="caption" if task == "caption" else "answer",
            mode=mode,
        )
        for task, (fact, mode) in _TASKS.items()
        if fact in facts
    )


def _check_described(
    root: Path, cases: Mapping[str, _Case], seen: Mapping[str, int], counter: FaultCounter
) -> None:
    """Tells the counter of images that no description speaks of."""
    missing = {
        image: case.where for case in cases.values() for image in case.images if image not in seen
    }
    for path in sorted((root / IMAGES).glob("*.png")):
        if path.stem not in seen:
            missing.setdefault(path.stem, str(path))
    for image, where in missing.items():
        counter.add(
            BadExample(
                "no description", f"{where}: {DESCRIPTIONS} does not describe the image {image}."
            )
        )


DATASET = Dataset(
    name="medpix2",
    title="MedPix 2.0",
    # Neither the repository nor the paper grants one; MedPix is the National Library of Medicine's.
    licence=(
        "none stated by its authors; images and texts are MedPix's (U.S. National Library of "
        "Medicine) and remain their contributors'"
    ),
    source="https://arxiv.org/abs/2407.02994, https://github.com/CHILab1/MedPix-2.0",
    files=f"{CASES}, {DESCRIPTIONS}, {IMAGES}/*.png and {medpix2_splits.FOLDER}/ of MedPix-2.0",
    read=read,
    variants={
        "caption": ("caption",),
        "description": ("modality", "plane", "location", "image_findings"),
        "case": ("history", "findings", "diagnosis", "differential", "treatment", "discussion"),
        "table": ("table",),
    },
)
