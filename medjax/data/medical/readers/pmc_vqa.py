"""PMC-VQA: questions with four choices, made by a language model from figures' captions.

Zhang, Wu, Zhao, Lin, Zhang, Wang and Xie, "PMC-VQA: visual instruction tuning for medical visual
question answering" (arXiv:2305.10415); the files are those of
huggingface.co/datasets/xmcmic/PMC-VQA: version 1 is train.csv, test.csv and images, 227,000 pairs
with figures of several panels; version 2 is train_2.csv, test_2.csv and images_2, without those.
test_clean.csv holds the rows of test.csv that people checked: such questions have the fact
checked = "yes".

Choices are written " A:Diffuse uptake", the answer as the text of one of them or as its letter. The
question that a model is asked has the choices behind it, in a line: "What is ...? Choices: A: ...;
B: ...; C: ...; D: ...". The answer is the text of the right choice, its letter the fact
`answer_label`. What a split keeps together is the article, which mostly shows one patient.
"""

import re
import string
from collections.abc import Iterator, Mapping
from pathlib import Path

from medjax.data.faults import BadExample, FaultCounter
from medjax.data.medical.dataset import Dataset
from medjax.data.medical.readers.pairs import ImageFolder, Pair, gather, needed
from medjax.data.medical.readers.tables import csv_rows
from medjax.data.medical.record import Question, Record
from medjax.errors import UserError

_LABELS = "ABCD"
_LETTERS = {label: re.compile(rf"{label}\s*[:.)]") for label in _LABELS}
_AROUND = string.whitespace + "\N{NO-BREAK SPACE}\N{HAIR SPACE}'\""
_COLUMNS = ("Figure_path", "Question", *(f"Choice {label}" for label in _LABELS))
# Some copies of the files spell these columns otherwise.
_ANSWERS = ("Answer", "Anwser")
_ANSWER_LABELS = ("Answer_label", "Anwser_label")
# Of each version: names of the files of a part, and of the folder of images.
_FILES: dict[int, dict[str, tuple[str, ...]]] = {
    1: {"train": ("train.csv",), "test": ("test.csv",)},
    2: {"train": ("train_2.csv", "train2.csv"), "test": ("test_2.csv", "test2.csv")},
}
_IMAGES = {
    1: ("images/images", "images", "figures"),
    2: ("images_2/figures", "images_2", "images2", "figures", "images"),
}
_CHECKED = "test_clean.csv"


def read(folder: Path, counter: FaultCounter) -> Iterator[Record]:
    """See `Dataset.read`. A part's records come when its file has been read."""
    found = {
        version: {
            split: folder / name
            for split, names in parts.items()
            for name in names
            if (folder / name).is_file()
        }
        for version, parts in _FILES.items()
    }
    found = {version: paths for version, paths in found.items() if paths}
    if not found:
        raise UserError(f"{folder} holds no PMC-VQA: it must hold {DATASET.files}.")
    if len(found) > 1:
        # Figures of one version's test part are in the other's training part.
        names = " and ".join(path.name for paths in found.values() for path in paths.values())
        raise UserError(
            f"{folder} holds both versions of PMC-VQA ({names}): keep the files of one."
        )
    ((version, paths),) = found.items()
    images = ImageFolder(folder, _IMAGES[version])
    for split, path in paths.items():
        checked = _checked(folder, counter) if (version, split) == (1, "test") else set()
        yield from gather(_pairs(path, split, images, checked, counter))


def _checked(folder: Path, counter: FaultCounter) -> set[tuple[str, str]]:
    """Figures and questions that people checked."""
    if not (path := folder / _CHECKED).is_file():
        return set()
    columns = ("Figure_path", "Question")
    return {
        (row["Figure_path"].strip(), row["Question"].strip())
        for _, row in csv_rows(path, columns, counter)
    }


def _pairs(
    path: Path,
    split: str,
    images: ImageFolder,
    checked: set[tuple[str, str]],
    counter: FaultCounter,
) -> Iterator[Pair]:
    for number, (where, row) in enumerate(csv_rows(path, _COLUMNS, counter)):
        try:
            figure = row["Figure_path"].strip()
            asked = needed(row["Question"], "question")
            choices = {label: _choice(row[f"Choice {label}"], label) for label in _LABELS}
            label = _label(row, choices)
            image = images.image(figure)
        except BadExample as fault:
            counter.add(BadExample(fault.reason, f"{where}: {fault}"))
            continue
        written = [f"{name}: {text}" for name, text in choices.items()]
        facts = {"choices": "\n".join(written), "answer_label": label}
        if (figure, asked) in checked:
            facts["checked"] = "yes"
        stem = Path(figure).stem
        caption = row.get("Caption", "").strip()
        yield (
            Record(
                id=f"{split}/{stem}",
                image=image,
                patient=_article(stem),
                split=split,
                facts={"caption": caption} if caption else {},
                where=where,
            ),
            Question(
                id=f"{split}/{number}",
                task="choice",
                question=f"{asked} Choices: {'; '.join(written)}",
                answer=choices[label],
                facts=facts,
            ),
        )


def _choice(text: str, label: str) -> str:
    """A choice without its letter."""
    bare = _bare(text)
    if letter := _LETTERS[label].match(bare):
        bare = _bare(bare[letter.end() :])
    return needed(bare, f"choice {label}")


def _bare(text: str) -> str:
    """Without the spaces and quotation marks that the language model left around some texts."""
    return text.strip(_AROUND)


def _label(row: Mapping[str, str], choices: Mapping[str, str]) -> str:
    """The letter of the right choice.

    The text of an answer counts more than its letter: the letter of some rows is another choice's.

    Raises:
      BadExample: the row has no answer, or one that is none of the choices.
    """
    answer = next((_bare(row[name]) for name in _ANSWERS if name in row), "")
    label = next((_bare(row[name]) for name in _ANSWER_LABELS if name in row), "").upper()
    if not answer and not label:
        raise BadExample("empty answer", "the answer is empty.")
    if not answer or answer == label:
        answer, label = "", label or answer
    elif answer in choices and not label:
        answer, label = "", answer
    if not answer and label in choices:
        return label
    texts = {answer, re.sub(r"^[A-D]\s*[:.)]\s*", "", answer)} - {""}
    right = [name for name, text in choices.items() if text in texts]
    if label in right:
        return label
    if right:
        return right[0]
    raise BadExample(
        "answer not among choices",
        f"the answer {answer or label!r} is none of the choices {', '.join(choices.values())}.",
    )


def _article(stem: str) -> str:
    """PubMed Central's name of a figure's article, from "PMC1064097_F1"."""
    found = re.match(r"PMC\d+", stem)
    return found[0] if found else stem


DATASET = Dataset(
    name="pmc_vqa",
    title="PMC-VQA",
    licence="CC BY-SA; the articles' figures CC0 or CC BY",
    source="https://arxiv.org/abs/2305.10415, https://huggingface.co/datasets/xmcmic/PMC-VQA",
    files=(
        "train.csv, test.csv and the folder images, or train_2.csv, test_2.csv and the folder "
        "images_2"
    ),
    read=read,
)
