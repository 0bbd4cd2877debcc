"""What a comparison is: lines of systems, and a section for each task with a column a metric."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from medjax.evaluation.table import Estimate


@dataclasses.dataclass(frozen=True)
class Line:
    """One system of the table; the attributes are those of `System` and `Published`."""

    name: str
    licence: str
    parameters: float | None
    source: str
    published: bool


@dataclasses.dataclass(frozen=True)
class Cell:
    """One metric of one system.

    Attributes:
      estimate: its mean with an interval.
      difference: from the reference on the same examples; None for the reference itself, for
        published figures, and where the reference lacks the metric.
    """

    estimate: Estimate
    difference: Estimate | None = None

    @property
    def differs(self) -> bool:
        """Whether the difference's interval leaves out 0."""
        found = self.difference
        return found is not None and (found.low > 0.0 or found.high < 0.0)

    def to_dict(self) -> dict[str, Any]:
        said: dict[str, Any] = self.estimate.to_dict()
        if self.difference is not None:
            said["difference"] = self.difference.to_dict() | {"leaves_out_0": self.differs}
        return said


@dataclasses.dataclass(frozen=True)
class Column:
    """One metric of all systems.

    Attributes:
      metric: its name.
      questions, groups: how many of each it is over; 0 where it is published alone.
      cells: by the number of the line; what a system lacks is absent.
    """

    metric: str
    questions: int
    groups: int
    cells: Mapping[int, Cell]


@dataclasses.dataclass(frozen=True)
class Section:
    """The table of one task, or of all questions."""

    task: str
    columns: tuple[Column, ...]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Several systems in one table.

    Attributes:
      lines: measured systems in the order given, then published ones.
      reference: the name of the system that the others are compared with.
      level: of the intervals.
      groups: what a group is, in the plural.
      questions: how many all systems answered.
      sections: all examples of a kind first, if they are of several tasks, then each task.
      notes: what its reader must know beside the numbers.
    """

    lines: tuple[Line, ...]
    reference: str
    level: float
    groups: str
    questions: int
    sections: tuple[Section, ...]
    notes: tuple[str, ...]

    @property
    def note(self) -> str:
        """How to read the numbers."""
        return (
            f"Means with {100 * self.level:g}% bootstrap intervals over {self.groups}. Differences "
            f"are from {self.reference}, paired by question; * marks those whose interval leaves "
            "out 0, with no correction for their number."
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON: every number, unrounded; null for what is not known."""
        return {
            "level": self.level,
            "groups": self.groups,
            "reference": self.reference,
            "questions": self.questions,
            "systems": [dataclasses.asdict(line) for line in self.lines],
            "sections": [
                {
                    "task": section.task,
                    "metrics": {
                        column.metric: {
                            "questions": column.questions,
                            "groups": column.groups,
                            # A list, as two published lines may be of one system.
                            "systems": [
                                {"line": number, "name": self.lines[number].name} | cell.to_dict()
                                for number, cell in column.cells.items()
                            ],
                        }
                        for column in section.columns
                    },
                }
                for section in self.sections
            ],
            "notes": list(self.notes),
        }
