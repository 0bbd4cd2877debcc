import json
from pathlib import Path

import pytest

from medjax.data.faults import BadExample, FaultCounter
from medjax.data.medical.readers import question_table
from medjax.data.medical.record import FileImage, Question, Record
from medjax.errors import UserError

HEADER = "image_id,case_id,question,answer,mode,split\n"


def _record(name, patient, split="", questions=()):
    return Record(
        id=name, image=FileImage.at(Path(f"{name}.png")), patient=patient, split=split,
        questions=questions,
    )  # fmt: skip


@pytest.fixture
def records():
    own = Question("MPX1_synpic1/plane", "plane", "Which plane?", "Axial")
    return [
        _record("MPX1_synpic1", "MPX1", "train", (own,)),
        _record("MPX1_synpic2", "MPX1", "train"),
        _record("MPX2_synpic3", "MPX2"),
        _record("MPX2_synpic4", "MPX2"),
        _record("alone", ""),
    ]


@pytest.fixture
def add(records, tmp_path):
    """Adds a table of some content, by default a CSV's."""

    def run(content, policy="error", name="table.csv", to=None):
        path = tmp_path / name
        path.write_text(content if name.endswith("csv") else "\n".join(map(json.dumps, content)))
        counter = FaultCounter(policy)
        return question_table.add(to or records, path, counter), counter

    return run


def test_rows_of_a_csv_become_questions(add, records):
    out, counter = add(
        "\ufeff" + HEADER + '/data/x/MPX1_synpic1.png,MPX1,"What, then?"," A mass,\nround "'
        ",alignment,Train\n"
        "C:\\images\\MPX1_synpic1.png,MPX1,How?,By CT,pre_training,train\n"
        "MPX2_synpic3,MPX2,Where?,In the liver,alignment,Valid\n"
    )
    assert not counter.counts
    assert [record.id for record in out] == [record.id for record in records]
    own, first, second = out[0].questions
    assert own == records[0].questions[0]
    assert first == Question(
        "MPX1_synpic1/table/1", "table", "What, then?", "A mass,\nround", mode="alignment",
        origin="table",
    )  # fmt: skip
    assert (second.id, second.question, second.mode) == (
        "MPX1_synpic1/table/2", "How?", "pre_training",
    )  # fmt: skip
    assert out[1].questions == ()
    # The whole patient is where the table says.
    assert [record.split for record in out] == ["train", "train", "validation", "validation", ""]


def test_a_second_table_goes_on_counting(add):
    row = "MPX1_synpic1,MPX1,Q,A,alignment,Train\n"
    once, _ = add(HEADER + row)
    twice, _ = add(HEADER + row, to=once)
    ids = [question.id for question in twice[0].questions]
    assert ids[1:] == ["MPX1_synpic1/table/1", "MPX1_synpic1/table/2"]


def test_lines_of_json_keep_who_made_them(add):
    base = {"image_id": "MPX1_synpic2", "case_id": "MPX1", "question": "Q?", "answer": "A"}
    out, _ = add(
        [
            base | {"mode": "alignment", "split": "Train", "task": "closed", "language": "de",
                    "model": "a-model", "source": "caption", "prompt": {"name": "p", "hash": "h"}},
            base | {"source": "experts"},
        ],
        name="table.jsonl",
    )  # fmt: skip
    made, by_hand = out[1].questions
    assert (made.task, made.language, made.origin) == ("closed", "de", "a-model")
    assert made.facts == {
        "model": "a-model", "source": "caption", "prompt": '{"name": "p", "hash": "h"}',
    }  # fmt: skip
    assert (by_hand.task, by_hand.language, by_hand.mode) == ("table", "en", "")
    assert by_hand.origin == "experts"


@pytest.mark.parametrize(
    ("row", "reason", "message"),
    [
        ("nowhere.png,MPX1,Q,A,alignment,Train", "unknown image", "'nowhere.png'"),
        ("MPX1_synpic1,MPX2,Q,A,alignment,Train", "case conflict", "is MPX2, but .* of MPX1"),
        ("MPX1_synpic1,MPX1,Q,A,later,Train", "unknown mode", "'later'"),
        ("MPX1_synpic1,MPX1,Q,A,alignment,Holdout", "unknown split", "'Holdout'"),
        ("MPX1_synpic1,MPX1, ,A,alignment,Train", "empty question", '"question" is empty'),
        ("MPX1_synpic1,MPX1,Q,,alignment,Train", "empty answer", '"answer" is empty'),
        ("MPX1_synpic1,MPX1,Q,A,,Train", "empty mode", '"mode" is empty'),
        ("MPX1_synpic1,MPX1,Q,A,alignment,Test", "split conflict", "is test, but .* in train"),
        ("MPX1_synpic1,MPX1,Q,A,alignment", "wrong number of values", "header"),
        ("MPX1_synpic1,MPX1,Q,A,alignment,Train,more", "wrong number of values", "header"),
    ],
)
def test_bad_rows_are_named_by_file_and_line(add, row, reason, message):
    # The row before takes two lines of the file.
    content = HEADER + '\nMPX1_synpic2,MPX1,"Q\n?",A,alignment,Train\n' + row + "\n"
    with pytest.raises(BadExample, match=rf"table\.csv:5: .*{message}") as fault:
        add(content)
    assert fault.value.reason == reason
    out, counter = add(content, "skip")
    assert counter.counts == {reason: 1}
    assert [len(record.questions) for record in out] == [1, 1, 0, 0, 0]


def test_a_patient_is_in_one_split(add):
    content = HEADER + (
        "MPX2_synpic3,MPX2,Q,A,alignment,Test\n"
        "MPX2_synpic4,MPX2,Q,A,alignment,Valid\n"
        "alone,,Q,A,alignment,Valid\n"
    )
    with pytest.raises(BadExample, match=r":3: .*validation, but .*all of MPX2.* in test"):
        add(content)
    _, counter = add(content, "skip")
    # Whose image is of no case has a row without one; a CSV must name it.
    assert counter.counts == {"split conflict": 1, "empty case_id": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": 7}, '"question" is 7: write a text'),
        ({"mode": ["alignment"]}, '"mode" is'),
        ({"answer": " "}, '"answer" is empty'),
        ({"split": "Later"}, "'Later'"),
    ],
)
def test_bad_lines_of_json_are_named(add, change, message):
    good = {"image_id": "alone.png", "question": "Q", "answer": "A"}
    with pytest.raises(BadExample, match=rf"table\.jsonl:2: .*{message}"):
        add([good, good | change], name="table.jsonl")


def test_files_that_are_no_tables_are_refused(add, records, tmp_path):
    with pytest.raises(UserError, match=r"the header lacks answer, mode"):
        add("image_id,case_id,question,split\n")
    with pytest.raises(UserError, match=r"is no table of questions"):
        add([], name="table.xlsx")
    with pytest.raises(UserError, match=r"There is no file"):
        question_table.add(records, tmp_path / "none.csv", FaultCounter("error"))
    with pytest.raises(UserError, match=r"table\.csv:\d+: the line is not CSV"):
        add(HEADER + 'MPX1_synpic1,MPX1,"Q"x,A,alignment,Train\n')
    (tmp_path / "latin.csv").write_bytes(HEADER.encode() + b"alone,,\xe9,A,alignment,Train\n")
    with pytest.raises(UserError, match=r"is not UTF-8"):
        question_table.add(records, tmp_path / "latin.csv", FaultCounter("error"))
