import csv

import pytest
from reader_files import faults, png, read, write_image

from medjax.errors import UserError

# As version 1 has it, and as version 2 does.
FIRST = {
    "Figure_path": "PMC1064097_F1.jpg",
    "Question": "What is the uptake pattern in the breast?",
    "Answer": "Focal uptake pattern",
    "Choice A": "A:Diffuse uptake pattern",
    "Choice B": " B:Focal uptake pattern ",
    "Choice C": " C: No uptake pattern",
    "Choice D": "'D:Cannot determine'",
    "Answer_label": "B",
}
SECOND = {
    "index": "0",
    "Figure_path": "PMC1064097_F1_0.jpg",
    "Caption": 'Uptake, "focal",\nin the left breast.',
    "Question": " Which breast? ",
    "Choice A": " A: left ",
    "Choice B": " B: right ",
    "Choice C": " C: both ",
    "Choice D": " D: none ",
    "Answer": "A",
    "split": "train",
}


def _csv(path, *rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def _write(folder, *rows, name="train.csv", images="images"):
    write_image(folder / images / "PMC1064097_F1.jpg", 10)
    write_image(folder / images / "PMC1064097_F1_0.jpg", 20)
    _csv(folder / name, *rows)
    return folder


def test_choices_become_part_of_the_question(tmp_path):
    _csv(tmp_path / "test.csv", FIRST | {"Question": "Where?"}, FIRST | {"Question": "Why?"})
    _csv(tmp_path / "test_clean.csv", FIRST | {"Question": "Why?"})
    trained, tested = read("pmc_vqa", _write(tmp_path, FIRST))
    (question,) = trained.questions
    assert (trained.id, trained.split, trained.patient) == (
        "train/PMC1064097_F1", "train", "PMC1064097",
    )  # fmt: skip
    assert trained.image.read() == png(10)
    assert (question.id, question.task, question.form) == ("train/0", "choice", "answer")
    assert question.question == (
        "What is the uptake pattern in the breast? Choices: A: Diffuse uptake pattern; "
        "B: Focal uptake pattern; C: No uptake pattern; D: Cannot determine"
    )
    assert question.answer == "Focal uptake pattern"
    assert question.facts == {
        "choices": "A: Diffuse uptake pattern\nB: Focal uptake pattern\nC: No uptake pattern\n"
        "D: Cannot determine",
        "answer_label": "B",
    }
    # Questions about one figure are one record; those that people checked say so.
    assert [q.facts.get("checked") for q in tested.questions] == [None, "yes"]
    assert tested.split == "test"


def test_version_2_has_letters_for_answers_and_captions(tmp_path):
    (record,) = read("pmc_vqa", _write(tmp_path, SECOND, name="train_2.csv", images="images_2"))
    assert record.facts == {"caption": 'Uptake, "focal",\nin the left breast.'}
    assert record.questions[0].question.startswith("Which breast? Choices: A: left; B: right;")
    assert record.questions[0].answer == "left"
    assert record.questions[0].facts["answer_label"] == "A"


@pytest.mark.parametrize(
    ("change", "label"),
    [
        ({"Answer_label": "C"}, "B"),  # the text counts more than the letter
        ({"Answer_label": "b "}, "B"),
        ({"Answer_label": ""}, "B"),
        ({"Answer_label": "X"}, "B"),
        ({"Answer": "B: Focal uptake pattern", "Answer_label": ""}, "B"),
        ({"Answer": " ", "Answer_label": "D"}, "D"),
        ({"Answer": "C", "Answer_label": ""}, "C"),
        ({"Answer": "C", "Answer_label": "C"}, "C"),
        ({"Choice D": "D:Focal uptake pattern", "Answer_label": "D"}, "D"),
        # An answer that is a letter itself is a text where the choices are such.
        ({"Choice A": "A:B", "Choice B": "B:A", "Answer": "B", "Answer_label": "A"}, "A"),
    ],
)
def test_which_choice_is_right(tmp_path, change, label):
    (record,) = read("pmc_vqa", _write(tmp_path, FIRST | change))
    assert record.questions[0].facts["answer_label"] == label


@pytest.mark.parametrize(
    ("change", "reason", "message"),
    [
        ({"Figure_path": "PMC9_F1.jpg"}, "missing image", r"PMC9_F1\.jpg does not exist"),
        ({"Figure_path": ""}, "missing image", "does not exist"),
        ({"Question": " "}, "empty question", "the question is empty"),
        ({"Choice C": "C:"}, "empty choice C", "the choice C is empty"),
        ({"Answer": "", "Answer_label": ""}, "empty answer", "the answer is empty"),
        ({"Answer": "Other"}, "answer not among choices", "'Other' is none of the choices"),
        ({"Answer": "", "Answer_label": "E"}, "answer not among choices", "'E' is none of"),
    ],
)
def test_damage_is_named_by_file_and_line(tmp_path, change, reason, message):
    folder = _write(tmp_path, FIRST, FIRST | change)
    with pytest.raises(UserError, match=rf"train\.csv:3: .*{message}"):
        read("pmc_vqa", folder)
    assert faults("pmc_vqa", folder) == {reason: 1}


def test_damaged_tables(tmp_path):
    folder = _write(tmp_path, FIRST)
    path = folder / "train.csv"
    text = path.read_text()
    path.write_text(text + "PMC1064097_F1.jpg,only two\n\n")
    with pytest.raises(UserError, match=r"train\.csv:3: the row has 2 fields, the header 8"):
        read("pmc_vqa", folder)
    assert faults("pmc_vqa", folder) == {"damaged row": 1}
    path.write_text(text.replace("Choice D", "Choice E"))
    with pytest.raises(UserError, match="lacks the column 'Choice D': it has 'Figure_path'"):
        read("pmc_vqa", folder)
    path.write_bytes(text.encode().replace(b"Focal", b"Foc\xff"))
    with pytest.raises(UserError, match=r"train\.csv is not UTF-8"):
        read("pmc_vqa", folder)
    _csv(folder / "train_2.csv", SECOND)
    with pytest.raises(UserError, match=r"both versions of PMC-VQA \(train\.csv and train_2\.csv"):
        read("pmc_vqa", folder)
