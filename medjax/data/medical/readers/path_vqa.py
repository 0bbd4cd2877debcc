"""PathVQA: questions about images of pathology from two textbooks and a digital library.

He, Zhang, Mou, Xing and Xie, "PathVQA: 30000+ questions for medical visual question answering"
(arXiv:2003.10286); the files are those of huggingface.co/datasets/flaviagiammarino/path-vqa:
19,654, 6,259 and 6,719 pairs in parquet files, without those that the authors' files repeat.

The authors' own files are pickles, which can hold programs that run when they are opened: medjax
does not open any. What json.dump makes of them is read: {train,val,test}_qa.json, lists of
{"image": "train_0422", "question": ..., "answer": ...}, beside images/{train,val,test}/<image>.jpg.
"""

from collections.abc import Iterator
from pathlib import Path

from medjax.data.faults import BadExample, FaultCounter
from medjax.data.medical.dataset import Dataset
from medjax.data.medical.readers.json_records import member, read_records
from medjax.data.medical.readers.pairs import (
    ImageFolder,
    Pair,
    from_parquet,
    gather,
    kind_of_answer,
    needed,
    once,
)
from medjax.data.medical.readers.tables import PARTS, parquet_parts
from medjax.data.medical.record import Question, Record
from medjax.errors import UserError


def read(folder: Path, counter: FaultCounter) -> Iterator[Record]:
    """See `Dataset.read`. Parquet files are read if there are any, else JSON files."""
    if parquet_parts(folder):
        yield from from_parquet(folder, counter)
        return
    paths = [(folder / f"{part}_qa.json", part) for part in ("train", "val", "test")]
    if not any(path.is_file() for path, _ in paths):
        if pickles := sorted(folder.rglob("*.pkl")):
            raise UserError(
                f"{pickles[0]} is a pickle, which medjax does not open, since a pickle can run "
                f"any program: get {DATASET.files}."
            )
        raise UserError(f"{folder} holds no PathVQA: it must hold {DATASET.files}.")
    for path, part in paths:
        if path.is_file():
            yield from gather(once(_pairs(path, part, counter)))


def _pairs(path: Path, part: str, counter: FaultCounter) -> Iterator[Pair]:
    images = ImageFolder(path.parent, (f"images/{part}", part))
    for index, row in read_records(path, "image"):
        where = f"{path}: record {index}"
        try:
            name = member(row, "image", str).strip()
            where += f", image {name}"
            asked = needed(member(row, "question", str), "question")
            answer = needed(member(row, "answer", str), "answer")
            image = images.image(name if Path(name).suffix else f"{name}.jpg")
        except BadExample as fault:
            counter.add(BadExample(fault.reason, f"{where}: {fault}"))
            continue
        kind, split, stem = kind_of_answer(answer), PARTS[part], Path(name).stem
        yield (
            Record(f"{split}/{stem}", image, stem, split, where=where),
            Question(f"{split}/{index}", kind, asked, answer, facts={"answer_type": kind}),
        )


DATASET = Dataset(
    name="path_vqa",
    title="PathVQA",
    licence=(
        "MIT for the questions; the copyright of the images is that of the textbooks' publishers "
        "and authors and of the digital library PEIR"
    ),
    source="https://arxiv.org/abs/2003.10286, https://github.com/UCSD-AI4H/PathVQA",
    files="train-*.parquet, validation-*.parquet and test-*.parquet of flaviagiammarino/path-vqa",
    read=read,
)
