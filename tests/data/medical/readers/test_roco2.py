import pytest
from reader_files import faults, png, read, write_image, write_parquet

from medjax.errors import UserError

A, B, C = (f"ROCOv2_2023_{part}_000001" for part in ("train", "valid", "test"))


def _write(folder):
    for part, name, value in (("train", A, 1), ("valid", B, 2), ("test", C, 3)):
        write_image(folder / part / f"{name}.jpg", value)
        caption = f'"Head CT, {part}."'
        (folder / f"{part}_captions.csv").write_text(f"ID,Caption\n{name},{caption}\n")
        (folder / f"{part}_concepts.csv").write_text(f"ID,CUIs\n{name},C0040405;C0018670\n")
    (folder / "train_concepts_manual.csv").write_text(f"ID,CUIs\n{A},C0040405\n")
    return folder


def test_captions_concepts_and_licences(tmp_path):
    folder = _write(tmp_path)
    (folder / "cui_mapping.csv").write_text(
        "CUI,Canonical name\nC0040405,X-Ray Computed Tomography\nC0018670,Head\n"
    )
    # The columns' names have stray spaces in some copies.
    (folder / "license_information.csv").write_text(
        f'ID , PMCID, Attribution\n{A},PMC12,"CC BY [Author et al. (2020)]"\n'
    )
    trained, validated, tested = read("roco2", folder)
    assert [(r.id, r.split) for r in (trained, validated, tested)] == [
        (A, "train"), (B, "validation"), (C, "test"),
    ]  # fmt: skip
    assert trained.patient == "PMC12"
    assert tested.patient == ""
    assert trained.facts == {
        "caption": "Head CT, train.",
        "cuis": "C0040405;C0018670",
        "keywords": "X-Ray Computed Tomography; Head",
        "modality": "CT",
        "licence": "CC BY [Author et al. (2020)]",
    }
    (question,) = tested.questions
    assert (question.task, question.form, question.mode) == ("caption", "caption", "pre_training")
    assert (question.question, question.answer) == ("", "Head CT, test.")
    assert tested.image.read() == png(3)


def test_captions_alone_are_enough(tmp_path):
    folder = _write(tmp_path)
    for path in folder.glob("*concepts*"):
        path.unlink()
    (folder / "test_captions.csv").unlink()
    (folder / "train").rename(folder / "x")
    (folder / "train_images").mkdir()
    (folder / "x").rename(folder / "train_images" / "train")
    trained, validated = read("roco2", folder)
    assert trained.facts == {"caption": "Head CT, train."}
    assert trained.image.read() == png(1)
    assert validated.split == "validation"


def test_the_hubs_parquet_files(tmp_path):
    rows = [
        {"image": {"bytes": png(value), "path": None}, "image_id": f"ROCOv2_2023_test_{value}",
         "caption": f"Caption {value}", "cui": cuis}
        for value, cuis in ((1, ["C0024485", "C0006104"]), (2, []), (3, None))
    ]  # fmt: skip
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", rows)
    first, second, third = read("roco2", tmp_path)
    assert first.facts == {"caption": "Caption 1", "cuis": "C0024485;C0006104", "modality": "MR"}
    assert second.facts == {"caption": "Caption 2"}
    assert third.image.read() == png(3)
    assert first.split == "test"
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", [rows[0] | {"caption": None}])
    with pytest.raises(UserError, match=r"parquet, row 0: the caption is empty"):
        read("roco2", tmp_path)


def test_damage_is_named_by_file_and_line(tmp_path):
    folder = _write(tmp_path)
    path = folder / "valid_captions.csv"
    path.write_text(path.read_text() + f"{B},  \n{A},other part\n,no id\n")
    with pytest.raises(UserError, match=rf"valid_captions\.csv:3, {B}: the caption is empty"):
        read("roco2", folder)
    assert faults("roco2", folder) == {"empty caption": 1, "missing image": 2}
    path.write_text(f"ID,Caption\n{B},one\n{B},two\n")
    with pytest.raises(UserError, match=rf":3, {B}: the id {B} is that of .*captions\.csv:2, {B}"):
        read("roco2", folder)
    path.write_text("ID,Text\n")
    with pytest.raises(UserError, match="lacks the column 'Caption': it has 'ID', 'Text'"):
        read("roco2", folder)


def test_an_empty_folder_says_what_it_must_hold(tmp_path):
    with pytest.raises(UserError, match="holds no ROCOv2: it must hold"):
        read("roco2", tmp_path)
