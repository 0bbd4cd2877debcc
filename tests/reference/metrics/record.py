#!/usr/bin/env python
"""Records what the official evaluations of VQA and LLaVA-Med make of some answers.

    python record.py VQA/PythonEvaluationTools/vqaEvaluation LLaVA-Med/llava/eval

The two folders are of checkouts of GT-Vision-Lab/VQA (c4e6a0e) and microsoft/LLaVA-Med (ad758b6).
Writes vqa.json: `normalised`, pairs of a text and what VQAEval's processPunctuation and
processDigitArticle make of it; `contractions`, its table as pairs; `accuracy`, an answer, those of
people,
and VQAEval's accuracy in percent with 2 decimals; `recall`, an answer, the true one, and the recall
of LLaVA-Med's calculate_f1score after its normalize_word.
"""

import importlib
import json
import pathlib
import random
import sys

HERE = pathlib.Path(__file__).parent
TEXTS = [
    "", " ", ".", "a", "The", "an a the", "A: lung", "yes", "Yes.", "no!", "None", "none.", "two",
    "ten ten", "1.5", "3.", ".5", "1.5 cm.", "e.g. T2.", "v1.2.3.", "1,000", "1,000 a/b", "1, 2",
    "1,2 - 3", "left/right", "left / right", "left/ right", "T1-weighted", "T1 -weighted", "T1- x",
    "x-ray (chest)", "(chest)", "chest(left)", "dont", "Don't", "somebody'd", "somebodyd", "Im",
    "Id've", "it's", "its", "lets", "let's", "yall'd've", "wheres", "what?", "what ?ever", "a_b",
    "a + b = c", "50%", "50 %", "<b>", "@ home", "[1]", "{x}", "C:\\dir", "`code`", "semi; colon",
    "line\nbreak\tand tab", "  two  spaces  ", "the liver, the spleen", "liver,spleen", "Straße.",
    "肺部", "\u00e9l\u00e8ve", "<=5.x", "<=5 .", "x<=3.y", ". . .", "." * 40, "a." * 40, "zero one",
    "right-sided pleural effusion.", "No, there is none.", "it is 2,5 cm; (max.)", "oclock", "-",
    "?",
]  # fmt: skip
PEOPLE = [
    ("yes", ["yes"] * 10),
    ("Yes.", ["yes"] * 7 + ["no"] * 3),
    ("no", ["yes"] * 7 + ["no"] * 3),
    ("the left lung", ["left lung"] * 2 + ["lung"] * 8),
    ("left lung", ["left lung"] + ["lung"] * 9),
    ("left-lung", ["left-lung"] * 4 + ["left/lung"] * 4 + ["the left lung"] * 2),
    ("two", ["2"] * 5 + ["two"] * 5),
    ("1,000", ["1,000"] * 5 + ["1000"] * 5),
    ("3.", ["3."] * 10),
    ("dont know", ["don't know"] * 3 + ["dont know"] * 7),
    ("a", ["a"] * 3 + [""] * 7),
    ("x", ["x", "x", "y"]),
    ("x", ["x", "y"]),
]
RECALLS = [
    ("the left lower lobe", "left lower lobe"),
    ("lobe", "left lower lobe"),
    ("cec cec cec cec", "cec of the colon"),
    ("", "liver"),
    ("liver", ""),
    ("It is in the liver, near 1,000 cysts.", "liver cysts"),
    ("two", "2"),
    ("A pneumothorax (right-sided).", "right sided pneumothorax"),
    ("nothing of that", "left lower lobe"),
    ("the the the", "the"),
    ("dont", "don't"),
    ("spleen/liver spleen", "spleen, liver; kidney spleen"),
    ("somebody'd", "somebodyd"),
]
PIECES = [
    "left", "right", "the", "a", "lung", "1,000", "2.5", ".", ",", "/", "-", "(", ")", "dont",
    "none", "two", "T2", "?", "'s", " ", " ", " ", ";", "<", "isnt",
]  # fmt: skip


class Questions:
    """What VQAEval reads of its own classes for questions and results."""

    def __init__(self, qa: dict):
        self.qa = qa

    def getQuesIds(self):
        return list(self.qa)


def official_accuracy(vqa, said: str, people: list[str]) -> float:
    answers = [{"answer": text, "answer_id": i} for i, text in enumerate(people)]
    question = {"answers": answers, "question_type": "", "answer_type": ""}
    evaluation = vqa.VQAEval(Questions({0: question}), Questions({0: {"answer": said}}))
    evaluation.evaluate([0])
    return evaluation.evalQA[0]


def main() -> None:
    sys.path[:0] = sys.argv[1:]
    vqa = importlib.import_module("vqaEval")
    utilities = importlib.import_module("eval_metrics.evaluate_metrics")
    normalize_word = importlib.import_module("eval_metrics.glossary").normalize_word
    rng = random.Random(0)
    texts = [*TEXTS, *("".join(rng.choices(PIECES, k=rng.randint(2, 9))) for _ in range(250))]
    evaluation = vqa.VQAEval(Questions({}), None)

    def normalised(text: str) -> str:
        text = text.replace("\n", " ").replace("\t", " ").strip()
        return evaluation.processDigitArticle(evaluation.processPunctuation(text))

    def recall(said: str, true: str) -> float:
        pair = (normalize_word(text.lower()) for text in (said, true))
        return utilities.calculate_f1score(*pair)[2]

    pairs = [*RECALLS, *((rng.choice(texts), rng.choice(texts)) for _ in range(250))]
    table = {k: v for k, v in evaluation.contractions.items() if k == k.lower() and k != v}
    record = {
        "normalised": [[text, normalised(text)] for text in texts],
        "contractions": list(table.items()),
        "accuracy": [
            [said, people, official_accuracy(vqa, said, people)] for said, people in PEOPLE
        ],
        "recall": [[said, true, recall(said, true)] for said, true in pairs],
    }

    def lines(cases) -> str:
        items = (json.dumps(case, ensure_ascii=False) for case in cases)
        return "[\n" + ",\n".join(items) + "\n]"

    text = ",\n".join(f'"{name}": {lines(cases)}' for name, cases in record.items())
    (HERE / "vqa.json").write_text(f"{{{text}}}\n")


if __name__ == "__main__":
    main()
