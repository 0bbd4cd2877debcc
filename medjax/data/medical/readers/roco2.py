"""ROCOv2: radiological figures of open-access articles with their captions and concepts.

Rückert et al., "ROCOv2: Radiology Objects in COntext version 2, an updated multimodal image
dataset", Scientific Data 11 (2024); the files are those of zenodo.org/records/10821435: 59,958,
9,904 and 9,927 images. {train,valid,test}_captions.csv (ID, Caption), ..._concepts.csv and
..._concepts_manual.csv (ID, CUIs, separated by ";"; the latter are those that people gave:
modality, and of X-rays body part and direction), cui_mapping.csv (CUI, Canonical name), and
license_information.csv (ID, PMCID, Attribution, ...), whose article is what a split keeps together.
Or, without licences, those of huggingface.co/datasets/eltorio/ROCOv2-radiology (parquet; image,
image_id, caption, cui).
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from medjax.data.faults import BadExample, FaultCounter
from medjax.data.medical.dataset import Dataset
from medjax.data.medical.readers.pairs import ImageFolder, needed
from medjax.data.medical.readers.tables import csv_rows, parquet_parts, parquet_rows
from medjax.data.medical.record import Image, Question, Record
from medjax.errors import UserError

_PARTS = {"train": "train", "valid": "validation", "test": "test"}
_NAMES = "cui_mapping.csv"
_LICENCES = "license_information.csv"
# UMLS concepts that say how an image was made.
_MODALITIES = {
    "C0040405": "CT",
    "C0024485": "MR",
    "C1306645": "X-ray",
    "C0041618": "ultrasound",
    "C0002978": "angiography",
    "C0032743": "PET",
    "C1699633": "PET/CT",
}


def read(folder: Path, counter: FaultCounter) -> Iterator[Record]:
    """See `Dataset.read`. CSV files are read if there are any, else parquet files."""
    seen: dict[str, str] = {}  # id: where
    for record in _records(folder, counter):
        if record.id in seen:
            again = f"{record.where}: the id {record.id} is that of {seen[record.id]}."
            counter.add(BadExample("duplicate id", again))
            continue
        seen[record.id] = record.where
        yield record


def _records(folder: Path, counter: FaultCounter) -> Iterator[Record]:
    parts = [part for part in _PARTS if (folder / f"{part}_captions.csv").is_file()]
    if not parts:
        if not parquet_parts(folder):
            raise UserError(f"{folder} holds no ROCOv2: it must hold {DATASET.files}.")
        yield from _from_parquet(folder, counter)
        return
    names = _column(folder / _NAMES, "CUI", "Canonical name", counter)
    licences = _column(folder / _LICENCES, "ID", "Attribution", counter)
    articles = _column(folder / _LICENCES, "ID", "PMCID", counter)
    for part in parts:
        images = ImageFolder(folder, (part, f"{part}_images/{part}", f"{part}_images"))
        concepts = {
            kind: _column(folder / f"{part}_{kind}.csv", "ID", "CUIs", counter)
            for kind in ("concepts", "concepts_manual")
        }
        for where, row in csv_rows(folder / f"{part}_captions.csv", ("ID", "Caption"), counter):
            name = row["ID"].strip()
            cuis = [
                cui.strip()
                for kind in ("concepts", "concepts_manual")
                for cui in concepts[kind].get(name, "").split(";")
            ]
            where += f", {name or 'no ID'}"
            try:
                image = images.image(f"{name}.jpg")
                facts = _facts(row["Caption"], cuis, names)
            except BadExample as fault:
                counter.add(BadExample(fault.reason, f"{where}: {fault}"))
                continue
            if name in licences:
                facts["licence"] = licences[name]
            yield _record(name, image, articles.get(name, ""), _PARTS[part], facts, where)


def _column(path: Path, key: str, column: str, counter: FaultCounter) -> dict[str, str]:
    """Texts by key; empty if there is no such file, or the file has no such column."""
    if not path.is_file():
        return {}
    rows = csv_rows(path, (key,), counter)
    return {row[key].strip(): text for _, row in rows if (text := row.get(column, "").strip())}


def _facts(caption: str | None, cuis: Sequence[str], names: Mapping[str, str]) -> dict[str, str]:
    """What is known of an image; concepts each once, in the files' order."""
    facts = {"caption": needed(caption, "caption")}
    distinct = [cui for cui in dict.fromkeys(cuis) if cui]
    if distinct:
        facts["cuis"] = ";".join(distinct)
    if named := [names[cui] for cui in distinct if cui in names]:
        facts["keywords"] = "; ".join(named)
    if modalities := [_MODALITIES[cui] for cui in distinct if cui in _MODALITIES]:
        facts["modality"] = modalities[0]
    return facts


def _record(
    name: str, image: Image, article: str, split: str, facts: dict[str, str], where: str
) -> Record:
    caption = Question(
        id=f"{name}/caption",
        task="caption",
        question="",
        answer=facts["caption"],
        form="caption",
        mode="pre_training",
    )
    return Record(name, image, article, split, (caption,), facts, where=where)


def _from_parquet(folder: Path, counter: FaultCounter) -> Iterator[Record]:
    for part, paths in parquet_parts(folder).items():
        for path in paths:
            for row in parquet_rows(path, ("image_id", "caption", "cui"), counter, digests=False):
                try:
                    name = needed(row.values["image_id"], "image_id")
                    facts = _facts(row.values["caption"], row.values["cui"] or (), {})
                except BadExample as fault:
                    counter.add(BadExample(fault.reason, f"{row.where}: {fault}"))
                    continue
                yield _record(name, row.image, "", part, facts, row.where)


DATASET = Dataset(
    name="roco2",
    title="ROCOv2",
    licence="each image's own: CC BY or CC BY-NC (license_information.csv)",
    source="https://doi.org/10.1038/s41597-024-03496-6, https://zenodo.org/records/10821435",
    files=(
        "{train,valid,test}_captions.csv, ..._concepts.csv and the folders train, valid and test "
        "of images, or the parquet files of eltorio/ROCOv2-radiology"
    ),
    read=read,
)
