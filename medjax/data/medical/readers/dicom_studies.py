"""A folder of DICOM studies: one's own images, without whose they are.

A folder may hold files of any names in folders of any depth. Of each series the middle slice is
taken, of one with at least 30 also those at one quarter and three quarters, and whatever slices
`labels.csv` names. They have no questions of their own; templates make some, and labels.csv may
hold others: columns `question`, `answer`, one or more of `path` (from the folder on),
`SOPInstanceUID` and `SeriesInstanceUID`, and, if wanted, `split` (train, validation or test; the
same for all of a patient).

What is kept of a patient: sex, age in years (90 and more are "90+", as the safe harbour of HIPAA
has it, 45 CFR 164.514(b)(2)), a pseudonym made of PatientID with the folder's own key (see
`dicom_identity.Pseudonyms`), and of the image modality, plane and body part. Names, dates, numbers,
institutions, UIDs and paths are not, nor are descriptions of study and series: they are free texts,
into which people type names. The image is stored as a DICOM file that has the encoded pixels and
what it takes to display them (`dicom_identity.KEPT`). Text that is burned into pixels, and faces in
them, stay: there is a warning where files say so.
"""

import collections
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from medjax.data.faults import BadExample, FaultCounter
from medjax.data.medical.dataset import Dataset
from medjax.data.medical.readers.dicom_identity import DicomImage, Pseudonyms
from medjax.data.medical.readers.dicom_series import Slice, find_series, representative
from medjax.data.medical.readers.pairs import kind_of_answer, needed
from medjax.data.medical.readers.tables import PARTS, csv_rows
from medjax.data.medical.record import Question, Record
from medjax.errors import UserError

_log = logging.getLogger(__name__)

LABELS = "labels.csv"
_NAMED_BY = ("path", "SOPInstanceUID", "SeriesInstanceUID")
_SEXES = {"M": "male", "F": "female", "O": "other"}
_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
# Codes for BodyPartExamined (PS3.16, table L-1); whatever else a file has there may be any text.
_TABLE_L1 = """
    ABDOMEN ABDOMENPELVIS ANKLE ANUS AORTA ARM AXILLA BACK BLADDER BRAIN BREAST BRONCHUS BUTTOCK
    CALCANEUS CALF CAROTID CEREBELLUM CERVIX CHEEK CHEST CHESTABDOMEN CHESTABDPELVIS CLAVICLE COCCYX
    COLON CORNEA CSPINE CTSPINE DUODENUM EAR ELBOW ESOPHAGUS EXTREMITY EYE FEMUR FINGER FOOT FOREARM
    GALLBLADDER HAND HEAD HEADNECK HEART HIP HUMERUS IAC ILEUM ILIUM JAW JEJUNUM KIDNEY KNEE LARYNX
    LEG LIVER LSPINE LSSPINE LUNG MANDIBLE MAXILLA MEDIASTINUM MOUTH NECK NECKCHEST NECKCHESTABDOMEN
    NECKCHESTABDPELV NOSE ORBIT OVARY PANCREAS PAROTID PATELLA PELVIS PENIS PHARYNX PROSTATE RADIUS
    RECTUM RIB SACRUM SCALP SCAPULA SCLERA SCROTUM SHOULDER SKULL SPINE SPLEEN SSPINE STERNUM
    STOMACH TESTIS THIGH THUMB THYMUS THYROID TIBIA TLSPINE TOE TONGUE TRACHEA TSPINE ULNA URETER
    URETHRA UTERUS VAGINA VULVA WHOLEBODY WRIST ZYGOMA
"""
_BODY_PARTS = frozenset(_TABLE_L1.split())
_OLDEST = 89  # whose age is said
# Devices that write into the pixels, and need not say so.
_OFTEN_BURNED_IN = ("US", "SC", "OT", "ES", "XC", "RF")


class _Label(NamedTuple):
    where: str
    line: int
    columns: Mapping[str, str]
    question: str
    answer: str
    split: str


def read(folder: Path, counter: FaultCounter) -> Iterator[Record]:
    """See `Dataset.read`. Headers are read, pixels are not."""
    series = find_series(folder, counter)
    if not series:
        raise UserError(f"{folder} holds no DICOM image.")
    names = Pseudonyms(folder)
    labels, splits = _labels_of(folder, series, names, counter)
    chosen = []
    for slices in series:
        wanted = set(representative(slices))
        wanted |= {i for i, part in enumerate(slices) if _is_named(part, labels)}
        chosen += [slices[i] for i in sorted(wanted)]
    _warn_of_burned_in(chosen)
    for part in chosen:
        yield _record(part, names, labels, splits)


def _record(
    part: Slice,
    names: Pseudonyms,
    labels: Mapping[Path | str, Sequence[_Label]],
    splits: Mapping[str, str],
) -> Record:
    frame = "" if part.frame is None else str(part.frame)
    name = names.of("image", part.text("SOPInstanceUID"), frame)
    asked = [label for key in _keys(part) for label in labels.get(key, ())]
    questions = []
    for label in sorted(asked, key=lambda label: label.line):
        kind = kind_of_answer(label.answer)
        questions.append(
            Question(
                id=f"{name}/{label.line}",
                task=kind,
                question=label.question,
                answer=label.answer,
                facts={"answer_type": kind},
            )
        )
    patient = _patient(part, names)
    return Record(
        id=name,
        image=DicomImage(part.path, part.frame, name),
        patient=patient,
        split=splits.get(patient, ""),
        questions=tuple(questions),
        facts=_facts(part),
        where=f"DICOM image {name}",
    )


def _patient(part: Slice, names: Pseudonyms) -> str:
    """The patient's pseudonym; where a file has no number of a patient, the study's."""
    if number := part.text("PatientID"):
        return names.of("patient", part.text("IssuerOfPatientID"), number)
    return names.of("study", part.text("StudyInstanceUID") or part.text("SeriesInstanceUID"))


def _facts(part: Slice) -> dict[str, str]:
    location = re.sub(r"[ _-]", "", part.text("BodyPartExamined").upper())
    modality = part.text("Modality")
    facts = {
        "type": modality,
        "modality": modality,
        "plane": part.plane,
        "location": location.lower() if location in _BODY_PARTS else "",
        "sex": _SEXES.get(part.text("PatientSex"), ""),
        "age": _age(part.text("PatientAge")),
    }
    return {name: text for name, text in facts.items() if text}


def _age(text: str) -> str:
    """Whole years, of "045Y", "018M", "006W" or "003D"."""
    found = re.fullmatch(r"(\d{1,3})([DWMY])", text)
    if not found:
        return ""
    years = int(int(found[1]) * _YEARS[found[2]] + 1e-9)
    return f"{_OLDEST + 1}+" if years > _OLDEST else str(years)


def _keys(part: Slice) -> tuple[Path | str, ...]:
    """What a label may call a slice."""
    return part.path, part.text("SOPInstanceUID"), part.text("SeriesInstanceUID")


def _is_named(part: Slice, labels: Mapping[Path | str, Sequence[_Label]]) -> bool:
    """Whether a label is of this very slice: not of its series, nor of a file of many frames."""
    return part.frame is None and any(key in labels for key in _keys(part)[:2])


def _labels_of(
    folder: Path, series: Sequence[Sequence[Slice]], names: Pseudonyms, counter: FaultCounter
) -> tuple[dict[Path | str, list[_Label]], dict[str, str]]:
    """The labels by what they name, and the patients' parts."""
    labels: dict[Path | str, list[_Label]] = collections.defaultdict(list)
    splits: dict[str, tuple[str, str]] = {}  # patient: part, and the label that says so
    if not (folder / LABELS).is_file():
        return labels, {}
    patients = {
        key: _patient(part, names) for slices in series for part in slices for key in _keys(part)
    }
    for label in _read_labels(folder / LABELS, counter):
        try:
            key = _named(folder, label, patients)
            patient = patients[key]
            split, where = splits.get(patient, (label.split, label.where))
            if label.split and split and label.split != split:
                raise BadExample(
                    "split conflict",
                    f"the patient is in the part {label.split!r}, but at {where} in {split!r}.",
                )
        except BadExample as fault:
            counter.add(BadExample(fault.reason, f"{label.where}: {fault}"))
            continue
        if label.split:
            splits[patient] = (split, where)
        labels[key].append(label)
    return labels, {patient: split for patient, (split, _) in splits.items()}


def _named(folder: Path, label: _Label, known: Mapping[Path | str, str]) -> Path | str:
    """What a label is of.

    Raises:
      BadExample: it names nothing, or an image that is not there.
    """
    for column in _NAMED_BY:
        if text := label.columns.get(column, "").strip():
            key = folder / text if column == "path" else text
            if key not in known:
                raise BadExample("unknown image", f"there is no DICOM image of {column} {text!r}.")
            return key
    raise BadExample("missing key", f"one of {', '.join(_NAMED_BY)} must name the image.")


def _read_labels(path: Path, counter: FaultCounter) -> Iterator[_Label]:
    for line, (where, row) in enumerate(csv_rows(path, ("question", "answer"), counter), start=1):
        try:
            part = row.get("split", "").strip().lower()
            if part and part not in PARTS:
                raise BadExample(
                    "unknown split", f'"split" is {part!r}: write train, validation or test.'
                )
            question = needed(row["question"], "question")
            answer = needed(row["answer"], "answer")
        except BadExample as fault:
            counter.add(BadExample(fault.reason, f"{where}: {fault}"))
            continue
        yield _Label(where, line, row, question, answer, PARTS.get(part, ""))


def _warn_of_burned_in(chosen: Sequence[Slice]) -> None:
    stated = [part.text("BurnedInAnnotation").upper() for part in chosen]
    burned_in = stated.count("YES")
    unsaid = sum(
        said not in ("YES", "NO") and part.text("Modality") in _OFTEN_BURNED_IN
        for said, part in zip(stated, chosen, strict=True)
    )
    if burned_in or unsaid:
        _log.warning(
            "Of %d DICOM images, %d say that text is burned into their pixels, and %d of kinds "
            "that often have some don't say. It may be names, and stays: look at the images first.",
            len(chosen), burned_in, unsaid,
        )  # fmt: skip


DATASET = Dataset(
    name="dicom_studies",
    title="a folder of DICOM studies",
    licence="one's own",
    source="https://dicom.nema.org/medical/dicom/current (PS3.3, PS3.15)",
    files="DICOM files of any names, in folders of any depth, and labels.csv if there is one",
    read=read,
    prepare=Pseudonyms,  # the key is made at the first use
)
