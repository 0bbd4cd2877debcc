"""Recipes ask for what their datasets have: parts, modes, keys of results."""

import csv
import io
import pathlib

import numpy as np
import pytest
from PIL import Image
from reader_files import write_json, write_parquet

from medjax import config as config_lib
from medjax.data import setup
from medjax.data.faults import FaultCounter
from medjax.data.medical import catalogue, reading
from medjax.data.medical.conditioning.run import condition
from medjax.data.medical.record import SHORT_FACTS

RECIPES = pathlib.Path(__file__).parents[4] / "configs"
ASKED = (("Is there a mass?", "yes", "CLOSED"), ("Where is it?", "left", "OPEN"))


def _image(number):
    """An image that no other number's is like."""
    coarse = np.random.default_rng(number).integers(0, 256, (6, 8), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def _put(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_image(number))


def _csv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def _vqa_rad(folder):
    rows = []
    for i in range(10):
        _put(folder / "images" / f"synpic{i}.jpg", i)
        for question, answer, kind in ASKED:
            # The published parts share all images.
            rows.append(
                {"qid": len(rows), "phrase_type": "freeform" if len(rows) % 2 else "test_freeform",
                 "image_name": f"synpic{i}.jpg", "image_organ": "HEAD", "question": question,
                 "image_case_url": f"https://medpix.nlm.nih.gov/case?id=drawn-{i}",
                 "answer": answer, "answer_type": kind, "question_type": "PRES"}
            )  # fmt: skip
    write_json(folder / "VQA_RAD Dataset Public.json", rows)


def _slake(folder):
    parts = {"train": [], "validate": [], "test": []}
    for i in range(6):
        _put(folder / "imgs" / f"xmlab{i}" / "source.jpg", i)
        row = {"img_name": f"xmlab{i}/source.jpg", "location": "Lung", "modality": "CT",
               "base_type": "vqa", "content_type": "Organ"}  # fmt: skip
        for question, answer, kind in ASKED:
            asked = {"question": question, "answer": answer, "answer_type": kind}
            of_part = parts[("train", "validate", "test")[i % 3]]
            of_part.append(row | asked | {"q_lang": "en", "qid": len(of_part)})
        # Each language is divided for itself.
        chinese = {"q_lang": "zh", "question": "有肺吗?", "answer": "有", "answer_type": "CLOSED"}
        parts["train"].append(row | chinese | {"qid": 100 + i})
    for part, rows in parts.items():
        write_json(folder / f"{part}.json", rows)


def _path_vqa(folder):
    for i, part in enumerate(("train", "validation", "test")):
        image = {"bytes": _image(i), "path": None}
        rows = [{"image": image, "question": q, "answer": answer} for q, answer, _ in ASKED]
        write_parquet(folder / f"{part}-00000-of-00001.parquet", rows)


def _pmc_vqa(folder):
    for part, articles in (("train", (1, 2)), ("test", (2, 3))):  # one of them in both
        names = [f"PMC{article}_{part}.jpg" for article in articles]
        for name, article in zip(names, articles, strict=True):
            _put(folder / "images" / name, article + 10 * len(part))
        choices = {f"Choice {label}": f"{label}: choice {label}" for label in "ABCD"}
        row = {"Question": "What is it?", "Answer": "choice B", **choices}
        _csv(folder / f"{part}.csv", [{"Figure_path": name} | row for name in names])


def _roco2(folder):
    licences = []
    for part, articles in (("train", (1, 2)), ("valid", (2, 3)), ("test", (4,))):
        ids = [f"ROCOv2_2023_{part}_{article:06d}" for article in articles]
        for name, article in zip(ids, articles, strict=True):
            _put(folder / part / f"{name}.jpg", article + 10 * len(part))
            licences.append({"ID": name, "PMCID": f"PMC{article}", "Attribution": "CC BY"})
        _csv(folder / f"{part}_captions.csv", [{"ID": n, "Caption": f"CT, {n}."} for n in ids])
        _csv(folder / f"{part}_concepts.csv", [{"ID": n, "CUIs": "C0040405"} for n in ids])
    _csv(folder / "license_information.csv", licences)


WRITTEN = {
    "vqa_rad": _vqa_rad, "slake": _slake, "path_vqa": _path_vqa, "pmc_vqa": _pmc_vqa,
    "roco2": _roco2,
}  # fmt: skip


@pytest.mark.parametrize("recipe", ["medpix", *WRITTEN])
def test_a_recipe_fits_its_dataset(recipe, tmp_path, request):
    config = config_lib.load(str(RECIPES / f"{recipe}_lora.py"))
    if recipe in WRITTEN:
        name, folder = recipe, tmp_path
        WRITTEN[recipe](folder)
    else:
        name, folder = "medpix2", request.getfixturevalue("drawn_medpix")
        # Drawn heads are much alike.
        config.data.conditioning.leaks = "warn"
    settings, counter = setup.conditioning(config), FaultCounter("skip")
    records = reading.read(catalogue.dataset(name), folder, settings, counter)
    done = condition(records, settings, name=name).records
    for part in ("train", "validation", "test"):
        for source in config.data[part].values():
            assert source.source == name
            of_part = [record for record in done if record.split == source.split]
            asked = [question for record in of_part for question in record.questions]
            assert {q.task for q in asked}.issuperset(source.tasks)
            assert asked
            assert {q.mode for q in asked}.issuperset(source.modes)
    tested = [record for record in done if record.split == "test"]
    known = {"answer_length", *SHORT_FACTS} & {
        "answer_length",
        *(f for r in tested for f in r.facts),
    }
    known |= {fact for r in tested for q in r.questions for fact in q.facts}
    assert known.issuperset(config.evaluate.by)
    assert config.evaluate.group == "patient"
