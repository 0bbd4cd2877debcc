"""What came of a sample in one direction, and what of it there is to look at."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from medjax.evaluation.fourm.scores import Direction

# What people see of a value: uint8 [H, W, 3], or a text.
Shown: TypeAlias = np.ndarray | str
# What colours of masks stand for: names and colours, RGB.
Legend: TypeAlias = Sequence[tuple[str, tuple[int, ...]]]
Show: TypeAlias = Callable[[str, Any], Shown]


@dataclasses.dataclass(frozen=True)
class Case:
    """What came of one sample in one direction.

    Attributes:
      id: of the sample.
      group: the unit of independence for intervals (a slab, a patient).
      given: what was given, by the name of the modality.
      made: what each system made of it, by the system's name.
      true: the true value.
      truncated: whether a text that was given or is true was cut.
    """

    id: str
    group: str
    given: Mapping[str, Any]
    made: Mapping[str, Any]
    true: Any
    truncated: bool = False


@dataclasses.dataclass(frozen=True)
class Exhibit:
    """A sample to look at: a `Case` whose values are as people see them.

    Attributes:
      scores: of each system, by the metric's name.
      number: which one it is of its direction's samples, from 0.
    """

    number: int
    id: str
    group: str
    given: Mapping[str, Shown]
    made: Mapping[str, Shown]
    true: Shown
    scores: Mapping[str, Mapping[str, float]]


@dataclasses.dataclass
class Section:
    """What is known of one direction so far."""

    direction: Direction
    content: str
    exhibits: list[Exhibit]
    count: int = 0
    stride: int = 1
