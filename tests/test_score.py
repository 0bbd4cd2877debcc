"""tools/score.py, from odd files of answers to tables."""

import csv
import json
import sys

import pyarrow
import pyarrow.parquet
import pytest
import score

from medjax import cli
from medjax.data.faults import FaultCounter
from medjax.data.medical import catalogue
from medjax.data.medical.dataset import Dataset
from medjax.data.medical.record import FileImage, Question, Record
from medjax.errors import UserError
from medjax.evaluation import table
from medjax.evaluation.external import answers, rows, truths
from medjax.evaluation.predictions import read_jsonl

ROWS = [
    {"question_id": 7, "prompt": "Is there air?", "text": "No.", "gt": False, "plane": "axial"},
    {"question_id": 8, "prompt": "How many cysts?", "text": 2, "gt": 2.5, "plane": "coronal"},
    {"question_id": 9, "prompt": "Which organ?", "text": "cec. cec.", "gt": ["liver", "the liver"]},
]  # fmt: skip


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs the tool; its exit code, its JSON or None, and what it said."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["score", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.run(score.main)
        out, err = capsys.readouterr()
        return exit_.value.code, json.loads(out) if out else None, err

    return run


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_strangers_file_becomes_a_table(command, tmp_path):
    path = lines(tmp_path / "answers.jsonl", ROWS)
    code, report, said = command(
        "--predictions", path, "--metrics", "basic,vqa,degeneration", "--by", "plane,answer_length",
        "--name", "Some model", "--licence", "MIT", "--parameters", "2.9e9", "--source", "a paper",
        "--published", "exact_match=0.61,map=0.2", "--json",
    )  # fmt: skip
    assert code == 0, said
    folder = tmp_path / "answers.scores"
    assert {p.name for p in folder.iterdir()} == set(score.FILES)
    assert report["taken"] == {
        "id": "question_id", "question": "prompt", "generated": "text", "truth": "gt"
    }  # fmt: skip
    assert "truth from 'gt'" in said
    assert "scored in" in said
    values = {m: r["systems"]["Some model"]["value"] for m, r in report["overall"].items()}
    assert values["exact_match"] == pytest.approx(1 / 3)
    assert values["closed_accuracy"] == 1.0
    assert values["answer_rate"] == 1.0
    assert values["repetition"] == pytest.approx(1 / 3)
    assert list(report["by"]["plane"]) == ["axial", "coronal", "not known"]
    assert json.loads((folder / "system.json").read_text()) == {
        "name": "Some model", "licence": "MIT", "parameters": 2_900_000_000, "source": "a paper",
        "published": {"exact_match": 0.61, "map": 0.2},
    }  # fmt: skip
    assert "### By plane" in (folder / "results.md").read_text()
    written = read_jsonl(folder / "predictions.jsonl")
    assert [(p.id, p.generated, p.truth) for p in written] == [
        ("7", "No.", "no"), ("8", "2", "2.5"), ("9", "cec. cec.", "liver")
    ]  # fmt: skip
    assert written[2].extra["answers"] == ["liver", "the liver"]


def test_what_it_wrote_scores_the_same_again_beside_another_system(command, tmp_path):
    first = lines(tmp_path / "a.jsonl", ROWS)
    code, before, _ = command("--predictions", first, "--metrics", "all", "--json")
    own = tmp_path / "a.scores" / "predictions.jsonl"
    code, after, said = command(
        "--predictions",
        own,
        "--metrics",
        "all",
        "--output",
        tmp_path / "b",
        "--name",
        "a",
        "--json",
    )
    assert code == 0, said
    assert after["overall"] | {"groups": 0} == {
        metric: {("groups" if key == "images" else key): value for key, value in row.items()}
        for metric, row in before["overall"].items()
    } | {"groups": 0}
    systems = {
        name: read_jsonl(tmp_path / name / "predictions.jsonl") for name in ("a.scores", "b")
    }
    assert table.results(systems).overall.differences["a.scores"].value == 0.0
    code, _, said = command("--predictions", own, "--output", own.parent)
    assert code == 2
    assert "written over" in said


def written_as(form, path, rows_):
    if form in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, rows_[0], delimiter="\t" if form == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows_)
    elif form == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows_), path)
    elif form == ".json":
        path.write_text(json.dumps({"model": "x", "results": rows_}))
    else:
        lines(path, rows_)
    return path


@pytest.mark.parametrize("form", rows.FORMATS)
def test_every_format_gives_the_same_answers(form, tmp_path):
    rows_ = [
        {"qid": "a", "Question": "Is it?", "model-answer": 'yes, "really",\nit is', "Label": "yes"},
        {"qid": "b", "Question": "Wo?", "model-answer": "in der Milz\u2028", "Label": "Leber"},
    ]
    path = written_as(form, tmp_path / f"answers{form}", rows_)
    found = answers.read_answers(path)
    assert {id: (s.question, s.generated, s.truth) for id, s in found.answers.items()} == {
        "a": ("Is it?", 'yes, "really",\nit is', "yes"),
        "b": ("Wo?", "in der Milz", "Leber"),
    }


def test_answers_by_id(tmp_path):
    path = tmp_path / "answers.json"
    path.write_text(json.dumps({"q1": "yes", "q2": {"response": "no"}}))
    with pytest.raises(UserError, match="no true answer"):
        score.join(answers.read_answers(path), None)
    path.write_text(json.dumps({"q1": "yes", "q2": "no"}))
    found = answers.read_answers(path).answers
    assert {id: said.generated for id, said in found.items()} == {"q1": "yes", "q2": "no"}


@pytest.mark.parametrize(
    ("row", "taken"),
    [
        ({"question_id": 1, "answer": "x"}, {"id": "question_id", "generated": "answer"}),
        ({"id": 1, "answer": "x", "pred": "y"},
         {"id": "id", "truth": "answer", "generated": "pred"}),
        ({"image_id": 1, "output": "y", "label": 0},
         {"id": "image_id", "generated": "output", "truth": "label", "image_key": "image_id"}),
        ({"ID": 1, "Ground Truth": "x", "Model_Response": "y", "text": "z"},
         {"id": "ID", "truth": "Ground Truth", "generated": "Model_Response"}),
        ({"qid": 1, "text": "q?", "gen": "y"},
         {"id": "qid", "question": "text", "generated": "gen"}),
    ],
)  # fmt: skip
def test_spellings(row, taken, tmp_path):
    keys = {"generated": "gen", "question": "text"} if "gen" in row else {}
    assert answers.read_answers(lines(tmp_path / "a.jsonl", [row]), keys).taken == taken


def test_ids_that_are_missing_or_doubled_are_counted(command, tmp_path):
    rows_ = [
        *ROWS,
        ROWS[0] | {"text": "yes"},
        {"text": "x", "gt": "y"},
        ROWS[1] | {"question_id": 3},
    ]
    rows_[-1]["text"] = None
    code, report, said = command(
        "--predictions",
        lines(tmp_path / "a.jsonl", rows_),
        "--metrics",
        "basic,answer_rate",
        "--json",
    )
    assert code == 0
    assert report["counts"] == {
        "questions": 4, "answered": 3, "without_id": 1, "doubled": 1, "unknown": 0, "missing": 0,
        "without_truth": 0,
    }  # fmt: skip
    assert report["overall"]["answer_rate"]["systems"]["a"]["value"] == 0.75
    assert "ids in several rows, of which the first counts: 1 ('7')" in said
    assert "3 of 4 questions are answered" in said


@pytest.fixture
def made_dataset(monkeypatch, tmp_path):
    """A dataset of two images, five questions of which are of the test part."""

    def read(folder, counter: FaultCounter):
        assert folder == tmp_path
        for i, split in enumerate(["train", "test"]):
            questions = tuple(
                Question(
                    f"image{i}/q{j}", task, asked, answer, form, facts={"answer_type": type_}
                )
                for j, (task, asked, answer, form, type_) in enumerate([
                    ("closed", "Is it CT?", "yes", "answer", "closed"),
                    ("open", "Which organ?", "the liver", "answer", "open"),
                    ("caption", "", "A cyst of the liver.", "caption", ""),
                ])
            )  # fmt: skip
            facts = {"modality": "CT", "caption": "long text"}
            yield Record(
                f"image{i}", FileImage.at(folder / "x.png"), "patient 1", split, questions, facts
            )

    made = Dataset("vqa_rad", "Made", "-", "-", "-", read)
    monkeypatch.setattr(catalogue, "dataset", lambda name: made)
    return f"vqa_rad={tmp_path}"


def test_truth_comes_from_a_dataset_by_id(command, tmp_path, made_dataset):
    rows_ = [{"id": "image1/q0", "answer": "Yes"}, {"id": "image1/q2", "answer": "A cyst."},
             {"id": "image0/q0", "answer": "yes"}]  # fmt: skip
    path = lines(tmp_path / "a.jsonl", rows_)
    code, report, said = command(
        "--predictions", path, "--data", made_dataset, "--group", "patient", "--json",
        "--by", "modality,answer_type",
    )  # fmt: skip
    assert code == 0, said
    assert (report["counts"]["unknown"], report["counts"]["missing"]) == (1, 1)
    assert "questions without a row, counted as not answered: 1 ('image1/q1')" in said
    assert set(report["tasks"]) == {"closed", "open", "caption"}
    assert report["tasks"]["open"]["exact_match"]["systems"]["a"]["value"] == 0.0
    assert report["tasks"]["closed"]["exact_match"]["patients"] == 1
    [_, silent, caption] = read_jsonl(tmp_path / "a.scores" / "predictions.jsonl")
    assert (silent.generated, silent.truth, silent.group) == ("", "the liver", "patient 1")
    assert caption.kind == "caption"
    assert caption.extra["modality"] == "CT"
    assert "caption" not in caption.extra
    _, report, _ = command(
        "--predictions", path, "--data", made_dataset, "--part", "all", "--only-answered", "--json"
    )
    assert report["counts"]["questions"] == 3


def test_ids_may_lack_a_beginning_or_have_one_more(command, tmp_path):
    true = [{"id": f"{part}/{n}", "answer": f"{part}{n}"} for part in ("x", "y") for n in (1, 2)]
    data = lines(tmp_path / "true.jsonl", [*true, {"id": "x/3", "answer": "only"}])
    rows_ = [
        {"id": "3", "text": "bare"},
        {"id": "1", "text": "of one of two"},
        {"id": "run/x/1", "text": "named", "truth": "x1", "source_name": "run"},
        {"id": "run/x/2", "text": "another's", "truth": "other", "source_name": "run"},
        {"id": "y/2", "text": "plain"},
    ]
    path = lines(tmp_path / "a.jsonl", rows_)
    code, report, said = command("--predictions", path, "--data", data, "--only-answered", "--json")
    assert code == 0, said
    found = {p.id: p for p in read_jsonl(tmp_path / "a.scores" / "predictions.jsonl")}
    assert {id: p.generated for id, p in found.items()} == {
        "x/1": "named", "y/2": "plain", "x/3": "bare"
    }  # fmt: skip
    assert report["counts"]["unknown"] == 2


def test_a_dataset_without_parts_says_so(command, tmp_path, monkeypatch):
    record = Record("image", FileImage.at(tmp_path), questions=(Question("q", "t", "?", "yes"),))
    made = Dataset("vqa_rad", "Made", "-", "-", "-", lambda folder, counter: iter([record]))
    monkeypatch.setattr(catalogue, "dataset", lambda name: made)
    path = lines(tmp_path / "a.jsonl", [{"id": "q", "answer": "yes"}])
    code, _, said = command("--predictions", path, "--data", f"vqa_rad={tmp_path}")
    assert (code, "no published parts: write --part all" in said) == (2, True)
    code, report, _ = command(
        "--predictions", path, "--data", f"vqa_rad={tmp_path}", "--part", "all", "--json"
    )
    assert report["overall"]["exact_match"]["systems"]["a"]["value"] == 1.0


def test_truth_comes_from_a_file(command, tmp_path):
    true = [{"id": "a", "question": "Is it?", "answer": "yes", "task": "seen"},
            {"id": "b", "question": "Where?", "answer": "liver", "task": "place"}]  # fmt: skip
    path = lines(tmp_path / "a.jsonl", [{"id": "b", "answer": "Liver"}])
    data = lines(tmp_path / "true.jsonl", true)
    code, report, said = command(
        "--predictions", path, "--data", data, "--tasks", "place", "--json"
    )
    assert code == 0, said
    assert report["tasks"]["place"]["exact_match"]["systems"]["a"]["value"] == 1.0
    assert report["counts"]["missing"] == 0
    with pytest.raises(UserError, match="no task 'x'"):
        truths.read_truths(str(data), "test", ["x"])


@pytest.mark.parametrize(
    ("name", "text", "arguments", "message"),
    [
        ("a.jsonl", "{}\n{", (), "a.jsonl:2 is not JSON"),
        ("a.jsonl", "[1]", (), "a.jsonl:1 is no JSON object"),
        ("a.jsonl", "\n\n", (), "has no answers"),
        (
            "a.jsonl",
            '{"id": 1, "gt": "x"}',
            (),
            "no key is known to hold the answers; it has id, gt",
        ),
        ("a.jsonl", '{"id": 1, "text": "x"}', (), "no true answer"),
        ("a.jsonl", '{"id": 1, "text": "x"}', ("--keys", "truth=y"), "no key 'y'; it has id, text"),
        ("a.jsonl", '{"id": 1, "text": "x"}', ("--keys", "x=id"), "no field 'x'"),
        (
            "a.jsonl",
            '{"text": "x", "gt": "y"}',
            ("--group", "patient"),
            "no example has such a key",
        ),
        ("a.jsonl", '{"text": "x", "gt": "y"}', ("--by", "sex"), "no results by 'sex'"),
        ("a.jsonl", '{"text": "x", "gt": "y"}', ("--metrics", "blue"), "no metric 'blue'"),
        ("a.jsonl", '{"text": "x", "gt": "y"}', ("--data", "x=y"), "NAME=FOLDER"),
        ("a.csv", "id,text,gt\n1,a, b,c\n", (), "a.csv:2: 4 values, but the header names 3"),
        ("a.csv", 'id,text,gt\n1,"a"b,c\n', (), "a.csv:2: this is no CSV"),
        ("a.csv", "id,id\n", (), "two columns have one name"),
        ("a.json", "3", (), "neither a list"),
        ("a.parquet", "x", (), "can't be read as parquet"),
        ("a.txt", "x", (), "by the file's ending"),
    ],
)
def test_what_is_wrong_is_said(name, text, arguments, message, command, tmp_path):
    path = tmp_path / name
    path.write_text(text)
    code, out, said = command("--predictions", path, *arguments)
    assert (code, out) == (2, None)
    assert message in said


def test_one_of_several_systems(command, tmp_path):
    rows_ = [{"id": "q", "text": t, "gt": "x", "system": s} for t, s in (("x", "a"), ("y", "b"))]
    path = lines(tmp_path / "a.jsonl", rows_)
    code, _, said = command("--predictions", path)
    assert (code, "answers of a, b: name one with --system" in said) == (2, True)
    code, report, _ = command("--predictions", path, "--system", "b", "--json")
    assert report["overall"]["exact_match"]["systems"]["b"]["value"] == 0.0
    code, _, said = command("--predictions", path, "--system", "c")
    assert (code, "no system 'c', but a, b" in said) == (2, True)


def test_odd_numbers_and_bytes(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('\ufeff{"id": 1, "text": NaN, "gt": "y", "age": 1e999, "n": 3}\n')
    [said] = answers.read_answers(path).answers.values()
    assert (said.generated, said.extra) == ("", {"age": None, "n": 3})
    path.write_bytes(b'{"id": "\xff"}')
    with pytest.raises(UserError, match="not UTF-8"):
        answers.read_answers(path)
