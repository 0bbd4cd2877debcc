"""VQA-RAD: clinicians' questions about radiological images of MedPix.

Lau, Gayen, Ben Abacha and Demner-Fushman, "A dataset of clinically generated visual questions and
answers about radiology images", Scientific Data 5 (2018); the files are those of osf.io/89kps
(2,248 pairs, 315 images), of its older division into trainset.json and testset.json, or of
huggingface.co/datasets/flaviagiammarino/vqa-rad (parquet; image, question and answer alone).

The test part is what `phrase_type` says: "test_freeform" and "test_para". It was divided by
question, so nearly every image of the test part is in the training part, too: as two records,
"train/synpic123" and "test/synpic123", with the case as patient of both. A pair of question and
answer that an image has twice is kept once, in the test part if it is in both: 1,793 and 451 pairs
are left, as in the Hub's version.
"""

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medjax.data.faults import BadExample, FaultCounter
from medjax.data.medical.dataset import Dataset
from medjax.data.medical.readers.json_records import member, read_records, short_text
from medjax.data.medical.readers.pairs import (
    ImageFolder,
    Pair,
    content,
    from_parquet,
    gather,
    needed,
    once,
    stated_kind,
)
from medjax.data.medical.readers.tables import parquet_parts
from medjax.data.medical.record import Question, Record
from medjax.errors import UserError

_log = logging.getLogger(__name__)

_IMAGES = ("VQA_RAD Image Folder", "VQA_RAD_Image_Folder", "images", "Images")
_PHRASES = {
    "freeform": "train",
    "para": "train",
    "test_freeform": "test",
    "test_para": "test",
}
_ORGANS = {"head": "head", "chest": "chest", "abd": "abdomen", "abdomen": "abdomen"}
# The file spells one type otherwise than its own documentation.
_SPELLINGS = {"ATRIB": "ATTRIB"}


def read(folder: Path, counter: FaultCounter) -> Iterator[Record]:
    """See `Dataset.read`. JSON files are read if there are any, else parquet files."""
    if not (paths := _json_files(folder)):
        if not parquet_parts(folder):
            raise UserError(f"{folder} holds no VQA-RAD: it must hold {DATASET.files}.")
        yield from from_parquet(folder, counter)
        return
    images = ImageFolder(folder, _IMAGES)
    pairs = [pair for path in paths for pair in _pairs(path, images, counter)]
    kept = _tested_once(once(pairs))
    if repeated := len(pairs) - len(kept):
        _log.warning("VQA-RAD has %d pairs of question and answer twice: kept once.", repeated)
    yield from gather(kept)


def _json_files(folder: Path) -> list[Path]:
    """Names vary by spaces, underscores and a date; of one file there may be older copies."""
    files = {re.sub(r"[\W_]", "", path.stem).lower(): path for path in folder.glob("*.json")}
    whole = sorted(name for name in files if name.startswith("vqaraddataset"))
    if len(whole) > 1:
        raise UserError(
            f"{folder} holds {' and '.join(files[name].name for name in whole)}: keep one of them."
        )
    wanted = whole or ("trainset", "testset")
    return [files[name] for name in wanted if name in files]


def _pairs(path: Path, images: ImageFolder, counter: FaultCounter) -> Iterator[Pair]:
    for index, row in read_records(path, "qid"):
        qid = row.get("qid", "") if isinstance(row, dict) else ""
        where = f"{path}: record {index}, qid {qid}"
        try:
            yield _pair(row, images, where)
        except BadExample as fault:
            counter.add(BadExample(fault.reason, f"{where}: {fault}"))


def _pair(row: Any, images: ImageFolder, where: str) -> Pair:
    name = member(row, "image_name", str).strip()
    phrase = member(row, "phrase_type", str).strip()
    if phrase not in _PHRASES:
        raise BadExample(
            "unknown phrase_type",
            f'"phrase_type" is {phrase!r}: it must be one of {", ".join(_PHRASES)}.',
        )
    part = _PHRASES[phrase]
    kind = stated_kind(member(row, "answer_type", str))
    asked = needed(member(row, "question", str), "question")
    answer = needed(member(row, "answer", str), "answer")  # a number becomes a text
    facts = {"answer_type": kind, "phrase_type": phrase}
    if types := _types(short_text(row, "question_type")):
        facts["question_type"] = types
    stem = Path(name).stem
    record = Record(
        id=f"{part}/{stem}",
        image=images.image(name),
        patient=_case(short_text(row, "image_case_url")) or stem,
        split=part,
        facts=_facts(row, stem),
        where=where,
    )
    qid = member(row, "qid", str).strip()
    return record, Question(f"{part}/{qid}", kind, asked, answer, facts=facts)


def _types(text: str) -> str:
    """Several types in one order: "PRES, ABN" and "abn,PRES" are one group of questions."""
    types = {_SPELLINGS.get(name.strip().upper(), name.strip().upper()) for name in text.split(",")}
    return ", ".join(sorted(types - {""}))


def _case(url: str) -> str:
    """MedPix's name of a case, from .../case?id=<name>&..."""
    found = re.search(r"[?&]id=([\w-]+)", url)
    return found[1] if found else ""


def _facts(row: Any, stem: str) -> dict[str, str]:
    organ = short_text(row, "image_organ").lower()
    synpic = re.fullmatch(r"synpic(\d+)", stem)
    facts = {"location": _ORGANS.get(organ, organ), "synpic": synpic[1] if synpic else ""}
    return {name: text for name, text in facts.items() if text}


def _tested_once(pairs: list[Pair]) -> list[Pair]:
    """Leaves out of the training part what the test part has, too."""
    tested = {content(pair) for pair in pairs if pair[0].split == "test"}
    return [pair for pair in pairs if pair[0].split == "test" or content(pair) not in tested]


DATASET = Dataset(
    name="vqa_rad",
    title="VQA-RAD",
    licence="CC0 1.0",
    source="https://doi.org/10.1038/sdata.2018.251, https://osf.io/89kps",
    files=(
        '"VQA_RAD Dataset Public.json" and the folder "VQA_RAD Image Folder" (or trainset.json, '
        "testset.json and images), or train-*.parquet and test-*.parquet of "
        "flaviagiammarino/vqa-rad"
    ),
    read=read,
)
