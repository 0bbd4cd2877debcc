"""Building: once, the same everywhere, anew when something changed, and never half."""

import dataclasses
import json
import logging
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pyarrow.parquet
import pytest

from medjax.data.faults import BadExample, FaultCounter
from medjax.data.image_files import ImageFile
from medjax.data.medical import build, builder, catalogue, reading
from medjax.data.medical.conditioning.settings import Settings
from medjax.data.medical.dataset import Dataset
from medjax.data.medical.record import FileImage, ParquetImage, Question, Record
from medjax.errors import UserError

_BUILD = """
import sys
from medjax.data.medical import build, catalogue
from medjax.data.medical.conditioning.settings import Settings
settings = Settings(leaks="warn", templates=True)
built = build.built(catalogue.dataset("medpix2"), sys.argv[1], sys.argv[2], settings)
print(built.data_path)
"""
# Text alone is conditioned, which is quick.
QUICK = Settings(leaks="off", overlays="keep")


def _files(folder: pathlib.Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in pathlib.Path(folder).rglob("*")
        if path.is_file()
    }


def _process(built_medpix, data_dir):
    return subprocess.Popen(
        [sys.executable, "-c", _BUILD, built_medpix.folder, data_dir],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.fixture
def few(tmp_path):
    """Builds a dataset of a few records of nine greys each: (records, settings) -> builder."""

    def make(records, settings=QUICK, on_bad_example="error", name="few"):
        (tmp_path / "files").mkdir(exist_ok=True)
        (tmp_path / "files" / "one").touch()

        def read(folder, counter):
            for record in records:
                if isinstance(record, BadExample):
                    counter.add(record)
                else:
                    yield record

        dataset = Dataset(name, "Few records", "none", "drawn", "nothing.", read)
        return build.built(dataset, tmp_path / "files", tmp_path / "data", settings, on_bad_example)

    return make


def _record(path, id="a", split="train", answers=("yes",), **known):
    questions = [Question(f"{id}/{i}", "open", "Is it?", text) for i, text in enumerate(answers)]
    return Record(id, FileImage.at(path), "", split, tuple(questions), **known)


@pytest.fixture
def png(tmp_path):
    from PIL import Image

    Image.new("L", (9, 9), 90).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_two_processes_at_once_build_once_and_the_same_bytes(built_medpix, tmp_path):
    processes = [_process(built_medpix, tmp_path) for _ in range(2)]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    (place,) = {out for out, _ in outputs}  # and nothing else is on standard output
    # Locations that are none are told of by whoever reads the files: one of the two.
    assert sum("Bethesda" in err for _, err in outputs) == 1
    assert _files(tmp_path) == _files(built_medpix.data_dir)
    assert pathlib.Path(place.strip()).is_relative_to(tmp_path)
    for name, content in _files(tmp_path).items():
        assert str(built_medpix.folder).encode() not in content, name


def test_a_killed_build_leaves_nothing_in_the_way(built_medpix, tmp_path):
    process = _process(built_medpix, tmp_path)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("medpix2/*/incomplete.*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (left,) = tmp_path.glob("medpix2/*/*")
    assert left.name.startswith("incomplete.")
    dataset = catalogue.dataset("medpix2")
    build.built(dataset, built_medpix.folder, tmp_path, built_medpix.settings)
    assert _files(tmp_path) == _files(built_medpix.data_dir)


def test_what_a_build_depends_on(drawn_medpix, tmp_path):
    dataset = catalogue.dataset("medpix2")
    folder, other = tmp_path / "medpix2", tmp_path / "vqa_rad"
    shutil.copytree(drawn_medpix, folder)
    other.mkdir()
    (other / "VQA_RAD Dataset Public.json").write_text("[]")
    table = tmp_path / "table.csv"
    table.write_text("a,b\n")
    settings = Settings(question_tables=(str(table),), against=(f"vqa_rad={other}",))

    def name(on_bad_example="error", dataset=dataset, **changes):
        return build._name(
            dataset, folder, dataclasses.replace(settings, **changes), on_bad_example
        )

    first = name()
    for path in (*folder.rglob("*.json"), table):
        os.utime(path, (1, 1))
    assert name() == first
    moved = tmp_path / "moved"
    shutil.move(other, moved)
    assert name(against=(f"vqa_rad={moved}",)) == first
    shutil.move(moved, other)

    names = [first, name("skip"), name(templates=True), name(question_tables=())]
    names += [name(against=()), name(dataset=dataclasses.replace(dataset, version="9.0.0"))]
    image = next((folder / "images").iterdir())
    for path in (
        folder / "Case_topic.json",
        folder / "splitted_dataset" / "uid_list.json",
        image,
        table,
        other / "VQA_RAD Dataset Public.json",
    ):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + b"#")
        names.append(name())
        path.write_bytes(content)
        assert name() == first
    image.rename(image.with_name("renamed.png"))
    names.append(name())
    assert len(set(names)) == len(names) == 12
    with pytest.raises(UserError, match=r"question_tables has .*gone.csv, which can't be read"):
        name(question_tables=(str(tmp_path / "gone.csv"),))


def test_a_dataset_is_not_compared_with_itself(few, png, tmp_path, monkeypatch):
    monkeypatch.setattr(
        build, "_other", lambda text: (Dataset("few", "", "", "", "", None), tmp_path / "files")
    )
    made = few([_record(png)], dataclasses.replace(QUICK, against=("few=files",)))
    assert made.builder_config.settings.against == ()


def test_another_setting_is_another_build_beside_the_first(few, png):
    first = few([_record(png)])
    again = few([_record(png)])
    other = few([_record(png)], dataclasses.replace(QUICK, templates=True))
    assert first.data_path == again.data_path != other.data_path
    assert first.data_path.exists()


def test_missing_folders_are_told_with_what_they_must_hold(tmp_path):
    dataset, data_dir = catalogue.dataset("medpix2"), tmp_path / "data"
    with pytest.raises(UserError, match=r"no folder .*gone. It must hold Case_topic.json"):
        build.built(dataset, tmp_path / "gone", data_dir, Settings())
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"nothing in .*empty. It must hold .*Set data.manual_dir"):
        build.built(dataset, tmp_path / "empty", data_dir, Settings())
    assert not data_dir.exists()


def test_leaks_are_refused_and_nothing_but_the_page_is_left(few, png):
    records = [_record(png, "a"), _record(png, "b", "test"), BadExample("drawn fault", "one")]
    with pytest.raises(UserError, match=r"same image.*All of it is in .*-refused/") as raised:
        few(records, dataclasses.replace(QUICK, leaks="error"), "skip")
    place = pathlib.Path(str(raised.value).rpartition("All of it is in ")[2].rstrip("."))
    data_dir = place.parents[2]
    assert {path.name for path in data_dir.rglob("*") if path.is_file()} == {
        "conditioning.json", "conditioning.html", ".few.lock"
    }  # fmt: skip
    refused = json.loads((place.parent / "conditioning.json").read_text())
    assert refused["steps"][-1]["figures"]["pairs"]
    assert refused["faults"] == {"drawn fault": 1}
    # It can be warned of in their stead, on the terminal, too.
    assert few(records, dataclasses.replace(QUICK, leaks="warn"), "skip").data_path.exists()


def test_warnings_are_told(few, png, caplog):
    with caplog.at_level(logging.WARNING):
        few([_record(png), _record(png, "b", "")])
    assert "few, split: 1 image without a published split" in caplog.text


def test_bad_records_and_images_that_cannot_be_read_are_counted(few, png, tmp_path):
    (tmp_path / "broken.png").write_bytes(png.read_bytes()[:-30])
    records = [
        _record(png),
        _record(tmp_path / "broken.png", "b", where="table.json: record 7"),
        _record(tmp_path / "gone.png", "c"),
        _record(png, "d", mask=FileImage.at(tmp_path / "broken.png")),
        BadExample("drawn fault", "it is bad"),
    ]
    with pytest.raises(BadExample, match=r"table.json: record 7: The image .*broken.png can't be"):
        few(records[:2])
    made = few(records, on_bad_example="skip")
    wanted = {"unreadable image": 2, "missing image": 1, "drawn fault": 1}
    assert build.faults(made) == build.report(made)["faults"] == wanted
    assert made.info.splits["train"].num_examples == 1
    assert build.report(made)["before"]["images"] == 1
    page = (made.data_path / "conditioning.html").read_text()
    assert "few" in page


def test_without_any_question_nothing_is_built(few, png):
    with pytest.raises(UserError, match="few: conditioning leaves no question with a split"):
        few([_record(png, answers=())])
    with pytest.raises(UserError, match="holds no record that can be used"):
        few([])
    # Of parts, those that have questions are built.
    records = [_record(png), _record(png, "b", "validation", ()), _record(png, "c", "test", ())]
    made = few(records)
    assert list(made.info.splits) == ["train"]
    steps = {step["name"]: step for step in build.report(made)["steps"]}
    assert steps["unasked"]["dropped"] == {"no question left": 2}


def test_parquet_images_keep_their_bytes(few, png, tmp_path):
    content = png.read_bytes()
    rows = [{"image": {"bytes": content, "path": None}}] * 3
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(rows), tmp_path / "p.parquet", row_group_size=2
    )
    record = dataclasses.replace(_record(png), image=ParquetImage(tmp_path / "p.parquet", 1, 0))
    (stored,) = few([record]).as_data_source("train")
    assert stored["image"] == content
    assert str(tmp_path) not in stored["part"].decode()


def test_parts_of_files_are_kept(few, tmp_path):
    from PIL import Image

    greys = [Image.new("L", (9, 9), grey) for grey in (10, 20, 30)]
    greys[0].save(tmp_path / "many.tif", save_all=True, append_images=greys[1:])
    image = FileImage.at(tmp_path / "many.tif", frame=2, window=(0.0, 60.0))
    (stored,) = few([dataclasses.replace(_record(tmp_path), image=image)]).as_data_source("train")
    assert stored["image"] == (tmp_path / "many.tif").read_bytes()
    part = reading.file_of(stored["part"].decode())
    assert part == ImageFile(pathlib.Path("many.tif"), frame=2, window=(0.0, 60.0))


def test_dicom_is_stored_without_identity_and_built_once(tmp_path):
    from pydicom.data import get_testdata_file

    folder = tmp_path / "dicom_studies"
    folder.mkdir()
    shutil.copy(get_testdata_file("CT_small.dcm"), folder / "IM1")
    (folder / "labels.csv").write_text("path,question,answer,split\nIM1,Is it CT?,yes,train\n")
    dataset = catalogue.dataset("dicom_studies")
    made = build.built(dataset, folder, tmp_path / "data", QUICK)
    (record,) = dataset.read(folder, FaultCounter("error"))
    (stored,) = made.as_data_source("train")
    assert stored["image"] == record.image.read()
    assert b"CompressedSamples" not in stored["image"]  # the file's PatientName
    everything = b"".join(_files(made.data_path).values())
    assert b"CompressedSamples" not in everything
    assert b"IM1" not in everything
    # The key of the pseudonyms, which the first build makes, is no change of the files.
    assert build.built(dataset, folder, tmp_path / "data", QUICK).data_path == made.data_path
    (folder / "medjax_pseudonyms.key").write_text("another key of some length")
    assert build.built(dataset, folder, tmp_path / "data", QUICK).data_path != made.data_path


def test_progress_is_shown_of_many_images_only(few, png, capsys, monkeypatch):
    few([_record(png)])
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(builder, "_PROGRESS_FROM", 1)
    few([_record(png)], dataclasses.replace(QUICK, templates=True))
    captured = capsys.readouterr()
    assert "few train" in captured.err
    assert captured.out == ""
