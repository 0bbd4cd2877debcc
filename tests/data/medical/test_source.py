"""A built medical dataset as examples, and the records behind them."""

import concurrent.futures
import dataclasses
import hashlib
import json
import pickle

import numpy as np
import pytest

from medjax.data.image_files import ImageFile
from medjax.data.medical import catalogue
from medjax.data.medical.record import Question, shown
from medjax.data.medical.source import MedicalSource, prefix_of
from medjax.data.sources import open_source
from medjax.data.streams import read_ahead
from medjax.errors import UserError

SPLITS = ("train", "validation", "test")


def _open(built_medpix, split="test", **kwargs):
    return MedicalSource(
        "medpix2", folder=built_medpix.folder, data_dir=built_medpix.data_dir, split=split,
        settings=built_medpix.settings, **kwargs,
    )  # fmt: skip


@pytest.fixture(scope="module")
def records(built_medpix):
    """Every stored record with its split."""
    data = built_medpix.builder.as_data_source()
    return [(split, record) for split in SPLITS for record in data[split]]


@pytest.fixture(scope="module")
def conditioned(built_medpix):
    """What the records were made of, by id."""
    from medjax.data.faults import FaultCounter
    from medjax.data.medical.conditioning.run import condition

    read = list(catalogue.dataset("medpix2").read(built_medpix.folder, FaultCounter("error")))
    done = condition(read, built_medpix.settings, name="medpix2")
    return {record.id: record for record in done.records}


def test_records_hold_the_files_bytes(records, built_medpix):
    assert len(records) == len(list((built_medpix.folder / "images").iterdir()))
    for _, record in records:
        file = built_medpix.folder / "images" / f"{record['id'].decode()}.png"
        wanted = hashlib.sha256(file.read_bytes()).hexdigest()
        assert hashlib.sha256(record["image"]).hexdigest() == wanted


def test_records_hold_all_that_is_known(records, conditioned):
    assert any(record.hidden for record in conditioned.values())
    for split, record in records:
        wanted = conditioned[record["id"].decode()]
        assert split == wanted.split
        assert record["patient"].decode() == wanted.patient
        assert record["hashes"].decode() == wanted.hashes
        assert json.loads(record["facts"]) == wanted.facts
        assert [tuple(box) for box in json.loads(record["hidden"])] == list(wanted.hidden)
        stored = record["questions"]
        for number, question in enumerate(wanted.questions):
            for field in dataclasses.fields(Question):
                value = stored[field.name][number].decode()
                known = getattr(question, field.name)
                assert (json.loads(value) if field.name == "facts" else value) == known
        assert len(stored["id"]) == len(wanted.questions)


@pytest.mark.parametrize("split", SPLITS)
def test_examples_are_the_questions_of_their_images(built_medpix, conditioned, split):
    source = _open(built_medpix, split)
    wanted = [
        (record, question)
        for record in conditioned.values()
        if record.split == split
        for question in record.questions
    ]
    assert len(source) == len(wanted) > 0
    for example, (record, question) in zip(source, wanted, strict=True):
        assert (example.id, example.suffix) == (question.id, question.answer)
        assert example.prefix == prefix_of(question.form, question.language, question.question)
        assert example.extra["patient"] == record.patient
        for key in ("task", "mode", "origin", "language"):
            assert example.extra[key] == getattr(question, key)
        for key in ("modality", "diagnosis", "location", "seen"):
            assert example.extra.get(key) == record.facts.get(key)
        assert "history" not in example.extra
    record, _ = wanted[-1]
    expected = shown(record.image.pixels(), record.hidden, record.crop)
    np.testing.assert_array_equal(source[len(source) - 1].image, expected)


def test_a_crop_is_applied_when_an_image_is_read(built_medpix, conditioned, tmp_path):
    settings = dataclasses.replace(built_medpix.settings, overlays="crop")
    source = MedicalSource(
        "medpix2", folder=built_medpix.folder, data_dir=tmp_path, split="test", settings=settings
    )
    example = source[0]
    whole = conditioned[example.extra["image_id"]].image.pixels()
    assert example.image.shape[0] < whole.shape[0]


def test_prompts_by_form():
    assert prefix_of("answer", "en", "Which plane?") == "answer en Which plane?"
    assert prefix_of("caption", "zh", "") == "caption zh"
    assert prefix_of("detect", "en", "liver ; lung") == "detect liver ; lung"


def test_some_tasks_and_modes(built_medpix):
    everything = list(_open(built_medpix, "train"))
    wanted = [e.id for e in everything if e.extra["task"] == "plane"]
    assert [e.id for e in _open(built_medpix, "train", tasks=("plane",))] == wanted
    variant = catalogue.dataset("medpix2").variants["case"]
    wanted = [e.id for e in everything if e.extra["task"] in variant]
    # Not all of a variant's tasks are there: conditioning leaves histories out.
    assert 0 < len({e.extra["task"] for e in everything} & set(variant)) < len(variant)
    assert [e.id for e in _open(built_medpix, "train", tasks=("case",))] == wanted
    wanted = [e.id for e in everything if e.extra["mode"] == "alignment"]
    assert [e.id for e in _open(built_medpix, "train", modes=("alignment",))] == wanted
    some = _open(built_medpix, "train", modes=("alignment",))
    full = {e.id: e for e in everything}
    np.testing.assert_array_equal(some[3].image, full[some[3].id].image)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"split": "dev"}, "no split 'dev': name one of train, validation, test"),
        ({"tasks": ("plan",)}, "no task 'plan': there is .*plane"),
        ({"tasks": ("table",)}, "no task 'table'"),
        ({"modes": ("later",)}, "no mode 'later': there is alignment, pre_training"),
    ],
)
def test_what_is_not_there_is_told(built_medpix, wrong, message):
    with pytest.raises(UserError, match=message):
        _open(built_medpix, **wrong)


def test_opening_reads_no_image(built_medpix, monkeypatch):
    read = []
    black = np.zeros((9, 9, 3), np.uint8)
    monkeypatch.setattr("medjax.data.medical.source.read_bytes", lambda *_: read.append(1) or black)
    source = open_source(
        "medpix2", folder=built_medpix.folder, data_dir=built_medpix.data_dir, split="train",
        conditioning=built_medpix.settings,
    )  # fmt: skip
    texts = [example.suffix for example in source]
    assert len(texts) == len(source)
    assert not read
    assert not source[0].image.any()
    assert read == [1]


def test_threads_and_other_processes_read_the_same(built_medpix):
    source = _open(built_medpix, "train")
    wanted = [(source[i].id, source[i].image.tobytes()) for i in range(12)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda i: (source[i].id, source[i].image.tobytes()), range(12))
        assert list(found) == wanted
    copy = pickle.loads(pickle.dumps(source))
    assert (copy[5].id, copy[5].image.tobytes()) == wanted[5]


def test_workers_read_the_same(built_medpix):
    import grain

    source = _open(built_medpix, "train")
    rows = grain.MapDataset.source(source).map(_row)[:4]
    assert list(read_ahead(rows, workers=1, prefetch=2)) == [_row(source[i]) for i in range(4)]


def _row(example):
    return {"id": example.id, "checksum": hashlib.sha256(example.image.tobytes()).hexdigest()}


def test_records_without_their_images(built_medpix, conditioned, monkeypatch):
    monkeypatch.setattr(ImageFile, "key", "")  # no path is asked for
    for split in SPLITS:
        found = list(_open(built_medpix, split).records())
        wanted = [record for record in conditioned.values() if record.split == split]
        assert [record.id for record in found] == [record.id for record in wanted]
        for ours, theirs in zip(found, wanted, strict=True):
            assert (ours.patient, ours.hashes, ours.facts) == (
                theirs.patient, theirs.hashes, theirs.facts
            )  # fmt: skip
            captions = [q.answer for q in theirs.questions if q.form == "caption"]
            assert [q.answer for q in ours.questions] == captions
