"""Runs the steps of conditioning that are switched on, one after another."""

import dataclasses
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence

from tqdm import tqdm

from medjax.data.medical.conditioning.settings import Settings, check
from medjax.data.medical.conditioning.step import Report, Step
from medjax.data.medical.record import Record
from medjax.errors import UserError

_PROGRESS_FROM = 20_000  # questions


@dataclasses.dataclass(frozen=True)
class Size:
    """How much there is: patients (that are known), images, questions."""

    patients: int
    images: int
    questions: int

    @classmethod
    def of(cls, records: Sequence[Record]) -> "Size":
        """The size of some records."""
        return cls(
            patients=len({record.patient for record in records if record.patient}),
            images=len(records),
            questions=sum(len(record.questions) for record in records),
        )


@dataclasses.dataclass(frozen=True)
class Conditioned:
    """What conditioning made of a dataset.

    Attributes:
      records: that are left, each with its split.
      reports: of the steps that ran, in their order.
      name: of the dataset.
      settings: that it was done with.
      sizes: before the first step and after each: one more than there are reports.
      off: settings whose steps did not run.
      faults: how many records could not be read and were left out before all this, by reason.
    """

    records: tuple[Record, ...]
    reports: tuple[Report, ...]
    name: str
    settings: Settings
    sizes: tuple[Size, ...]
    off: tuple[str, ...]
    faults: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class _Planned:
    """A step: its module here, the setting that governs it, and when that switches it on."""

    module: str
    setting: str
    on: Callable[[Settings], bool]

    @property
    def step(self) -> Step:
        # Imported when it is wanted: some steps need libraries of their own.
        return importlib.import_module(f"{__package__}.{self.module}").step


def _compares(settings: Settings) -> bool:
    return settings.leaks != "off"


# Texts first, which is cheap. Lengths come before captions that give a diagnosis away: a caption
# that is too long to be learnt gives nothing away. After templates nothing more is asked, so that
# images without a question can go. Hashes are of what is left of an image when its
# burned-in text is hidden, leaks need hashes and splits, and what training has not seen depends on
# the images that leaks took out of it.
STEPS = (
    _Planned("languages", "languages", lambda s: bool(s.languages)),
    _Planned("placeholders", "placeholders", lambda s: s.placeholders),
    _Planned("beyond_slice", "beyond_slice", lambda s: s.beyond_slice),
    _Planned("lengths", "max_answer_tokens", lambda s: s.max_answer_tokens > 0),
    _Planned("given_away", "diagnosis_in_caption", lambda s: s.diagnosis_in_caption),
    _Planned("templates", "templates", lambda s: s.templates),
    _Planned("unasked", "unasked", lambda s: True),
    _Planned("overlays", "overlays", lambda s: s.overlays != "keep"),
    _Planned("splits", "split", lambda s: True),
    _Planned("hashes", "hash_distance", _compares),
    _Planned("leaks", "leaks", _compares),
    _Planned("unseen", "unseen", lambda s: True),
)


def condition(records: Sequence[Record], settings: Settings, *, name: str) -> Conditioned:
    """Does to a dataset what the settings say.

    The same records and settings give the same; a step that is off is not even imported.

    Args:
      records: as they were read, further questions from tables included.
      name: of the dataset, for the report.

    Raises:
      UserError: a setting is not one of its choices, ids are not unique, or a step says so. Where
        that step made a report of what it found (`error.report`), what was done until then is
        `error.conditioned`, for the page that shows it.
    """
    check(settings)
    _check_ids(records, name)
    left = list(records)
    sizes = [Size.of(left)]
    reports: list[Report] = []

    def conditioned() -> Conditioned:
        off = tuple(planned.setting for planned in STEPS if not planned.on(settings))
        return Conditioned(tuple(left), tuple(reports), name, settings, tuple(sizes), off)

    bar = tqdm(
        [planned for planned in STEPS if planned.on(settings)],
        desc=f"conditioning {name}",
        unit="step",
        file=sys.stderr,
        disable=sizes[0].questions < _PROGRESS_FROM,
    )
    for planned in bar:
        try:
            left, report = planned.step(left, settings)
        except UserError as error:
            if isinstance(found := getattr(error, "report", None), Report):
                reports.append(found)
                sizes.append(Size.of(left))
                error.conditioned = conditioned()  # type: ignore[attr-defined]
            raise
        reports.append(report)
        sizes.append(Size.of(left))
    return conditioned()


def _check_ids(records: Sequence[Record], name: str) -> None:
    """Ids name images and questions in reports and predictions."""
    images: set[str] = set()
    questions: set[str] = set()
    for record in records:
        for id, ids in ((record.id, images), *((q.id, questions) for q in record.questions)):
            if id in ids:
                place = f" ({record.where})" if record.where else ""
                raise UserError(f"{name}: the id {id!r} occurs twice{place}.")
            ids.add(id)
