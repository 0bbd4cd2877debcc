"""Everything that came of every direction: a table, a page to look through, and a picture.

Samples are added one by one and scored as they come. Of most nothing but the scores is kept; of a
few dozen a direction, evenly spaced and chosen without looking at how well they went, also what
there is to look at.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medjax.evaluation.fourm.cases import Case, Exhibit, Legend, Section, Show, Shown
from medjax.evaluation.fourm.page import write_page
from medjax.evaluation.fourm.picture import write_picture
from medjax.evaluation.fourm.scores import Direction, score
from medjax.evaluation.table import Results, Words, results
from medjax.files import write_whole

FILES = ("results.json", "results.md", "directions.html", "directions.png")

_WORDS = Words("direction", "samples", "Samples of which a text was cut")


@dataclasses.dataclass(frozen=True)
class Record:
    """One system's scores of one sample in one direction, as `table.results` reads it."""

    id: str
    task: str
    kind: str
    group: str
    scores: Mapping[str, float]
    truncated: bool


class Report:
    """Collects what came of the samples, direction by direction, and writes it down."""

    def __init__(
        self,
        show: Show,
        *,
        title: str = "Directions",
        groups: str = "slabs",
        systems: Sequence[str] = (),
        shown: int = 48,
        pictured: int = 3,
        legend: Legend = (),
    ):
        """Begins empty.

        Args:
          show: makes a picture or a text of a modality's value, given its name and the value.
          title: of the page.
          groups: what a group is, in the plural.
          systems: their order; the last is compared with each other one. The order in which they
            come, if empty.
          shown: at most so many samples a direction are on the page, and at least half of them.
          pictured: so many of those are in the picture.
          legend: what colours of masks stand for.
        """
        if shown < 2:
            raise ValueError(f"shown must be at least 2, not {shown}")
        if pictured < 1:
            raise ValueError(f"pictured must be at least 1, not {pictured}")
        self._show, self._title, self._groups = show, title, groups
        self._shown, self._pictured, self._legend = shown, pictured, legend
        self._records: dict[str, list[Record]] = {system: [] for system in systems}
        self._sections: dict[Direction, Section] = {}

    def add(
        self, direction: Direction, content: str, case: Case, classes: Sequence[str] = ()
    ) -> dict[str, dict[str, float]]:
        """Scores what the systems made of a sample, and keeps it.

        Args:
          content: of the target (`Modality.content`).
          classes: of labels, the names of the classes from 0 on.

        Returns:
          The scores by system.
        """
        section = self._sections.setdefault(direction, Section(direction, content, []))
        scores = {
            system: score(content, made, case.true, classes) for system, made in case.made.items()
        }
        for system, of_system in scores.items():
            record = Record(
                id=f"{direction}: {case.id}",
                task=str(direction),
                kind=content,
                group=case.group,
                scores=of_system,
                truncated=case.truncated,
            )
            self._records.setdefault(system, []).append(record)
        if section.count % section.stride == 0:
            section.exhibits.append(self._exhibit(section, case, scores))
        section.count += 1
        if len(section.exhibits) > self._shown:
            section.exhibits = section.exhibits[::2]
            section.stride *= 2
        return scores

    def results(self) -> Results:
        """The table of all directions.

        Raises:
          ValueError: nothing was added, or systems did different samples of a direction.
        """
        systems = {system: records for system, records in self._records.items() if records}
        order = [str(direction) for direction in self._sections]
        return results(systems, groups=self._groups, order=order, words=_WORDS)

    def write(self, folder: pathlib.Path) -> Results:
        """Writes `FILES` and returns the table.

        Raises:
          ValueError: as `results`.
        """
        table = self.results()
        sections = list(self._sections.values())
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(table.to_dict(), indent=2, allow_nan=False) + "\n"
        write_whole(folder / "results.json", text.encode())
        write_whole(folder / "results.md", (table.to_markdown() + "\n").encode("utf-8", "replace"))
        write_page(
            folder / "directions.html", sections, table, title=self._title, legend=self._legend
        )
        write_picture(
            folder / "directions.png", sections, table.systems[-1], count=self._pictured,
            legend=self._legend,
        )  # fmt: skip
        return table

    def _exhibit(
        self, section: Section, case: Case, scores: Mapping[str, Mapping[str, float]]
    ) -> Exhibit:
        def show(name: str, value: Any) -> Shown:
            # A copy, so that no batch is kept for the sake of one row of it.
            seen = self._show(name, value)
            return seen if isinstance(seen, str) else np.array(seen, np.uint8)

        target = section.direction.target
        return Exhibit(
            number=section.count,
            id=case.id,
            group=case.group,
            given={name: show(name, value) for name, value in case.given.items()},
            made={system: show(target, value) for system, value in case.made.items()},
            true=show(target, case.true),
            scores=scores,
        )
