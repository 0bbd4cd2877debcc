"""Records in memory: an image is an array."""

import dataclasses

import numpy as np
import pytest

from medjax.data.faults import BadExample
from medjax.data.medical.record import Question, Record


@dataclasses.dataclass(frozen=True)
class ArrayImage:
    """An image in memory, grey as its key says; none where there is no array."""

    key: str
    array: np.ndarray | None = dataclasses.field(compare=False)

    def read(self) -> bytes:
        return self.pixels().tobytes()

    def pixels(self) -> np.ndarray:
        if self.array is None:
            raise BadExample("missing image", f"{self.key} is missing.")
        return self.array


def make_record(id="i", *answers, task="open", question="What is seen?", pixels=True, **known):
    """A record with a question of each answer; an answer may be a `Question` of its own.

    `known` are the record's attributes and, of any other name, its facts.
    """
    questions = [
        answer
        if isinstance(answer, Question)
        else Question(f"{id}/{number}", task, question, answer)
        for number, answer in enumerate(answers)
    ]
    names = {field.name for field in dataclasses.fields(Record)}
    attributes = {name: known.pop(name) for name in list(known) if name in names}
    array = np.full((40, 60, 3), 90, np.uint8) if pixels else None
    image = attributes.pop("image", ArrayImage(f"/secret/place/{id}.png", array))
    return Record(id, image, questions=tuple(questions), facts=known, **attributes)


@pytest.fixture
def record():
    """`make_record`."""
    return make_record
