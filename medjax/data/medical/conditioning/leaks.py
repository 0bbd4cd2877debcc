"""The step that looks for leaks: what training shares with what is held out.

VQA-RAD, for one, has images of MedPix, which its files call "synpic..." (Lau et al. 2018,
doi:10.1038/sdata.2018.251), and its published parts share images.
"""

import collections
from collections.abc import Mapping, Sequence

from medjax.data.faults import FaultCounter
from medjax.data.medical.conditioning import compared, hashes
from medjax.data.medical.conditioning.settings import Settings
from medjax.data.medical.conditioning.shared import KINDS, Leak, find
from medjax.data.medical.conditioning.step import SHOWN, Case, Report, pick
from medjax.data.medical.record import Record
from medjax.errors import UserError

__all__ = ["KINDS", "Leak", "LeaksFound", "counted", "find", "step"]

_NAMED = 3  # pairs that an error names


class LeaksFound(UserError):
    """Parts share what they should not.

    Attributes:
      report: of the step, with examples, and all pairs by their ids.
      leaks: all of them.
    """

    def __init__(self, message: str, report: Report, leaks: Sequence[Leak]):
        super().__init__(message)
        self.report = report
        self.leaks = tuple(leaks)

    def __reduce__(self) -> tuple:
        # Exceptions are rebuilt from `args`, here two too few, when a worker process raises them.
        return type(self), (str(self), self.report, self.leaks)


def step(records: Sequence[Record], settings: Settings) -> tuple[list[Record], Report]:
    """Looks for leaks between the parts, and between them and the datasets of `against`.

    What is dropped is the image of training or, where validation and test share one, that of
    validation. An image of another dataset can be dropped there alone: a warning says how many.

    Raises:
      LeaksFound: there are some, and `leaks` is "error".
      UserError: a dataset of `against` cannot be read.
    """
    records = hashes.with_hashes(records)
    parts = compared.parts_of(records)
    for text in settings.against:
        name, folder = compared.named_folder(text, "data.conditioning.against")
        others = compared.read(name, folder, settings, FaultCounter("skip"))
        parts += compared.parts_of(others, name)
    here: list[Leak] = []
    elsewhere: list[Leak] = []
    for one, other in compared.to_compare(parts):
        if one.dataset and other.dataset:
            continue
        found = find(
            one.records,
            other.records,
            distance=settings.hash_distance,
            parts=(one.name, other.name),
            one_dataset=one.dataset == other.dataset,
        )
        (elsewhere if one.dataset else here).extend(found)
    leaks = [*here, *elsewhere]
    if leaks and settings.leaks == "error":
        raise LeaksFound(_message(leaks), _report(leaks, {}, ()), leaks)
    dropped: dict[str, int] = {}
    warnings = []
    if settings.leaks == "drop":
        why = {leak.train.id: leak for leak in reversed(here)}  # the first of an image counts
        records = [record for record in records if record.id not in why]
        dropped = dict(
            collections.Counter(f"{leak.kind} in {leak.parts[1]}" for leak in why.values())
        )
        if elsewhere:
            names = ", ".join(sorted({leak.parts[0] for leak in elsewhere}))
            warnings.append(
                f"{len({leak.held_out.id for leak in elsewhere})} held-out images are in {names}, "
                "too. They can be dropped there alone: condition that dataset with this one in "
                "its `against`."
            )
    elif leaks:
        warnings.append(_message(leaks))
    return records, _report(leaks, dropped, warnings)


def counted(leaks: Sequence[Leak]) -> dict[str, int]:
    """Pairs by kind, in the order of `KINDS`; kinds without any are left out."""
    counts = collections.Counter(leak.kind for leak in leaks)
    return {kind: counts[kind] for kind in KINDS if counts[kind]}


def _report(leaks: Sequence[Leak], dropped: Mapping[str, int], warnings: Sequence[str]) -> Report:
    cases: dict[str, list[Case]] = {}
    for leak in leaks:
        shown = cases.setdefault(leak.kind, [])
        if len(shown) < SHOWN:
            text = f"{leak.parts[0]} and {leak.parts[1]}: {leak.detail}"
            shown.append(Case(leak.train, text, leak.kind, leak.held_out))
    by_parts: dict[str, list[Leak]] = {}
    for leak in leaks:
        by_parts.setdefault(" – ".join(leak.parts), []).append(leak)
    return Report(
        name="leaks",
        does="Looks for patients, images and captions that training shares with what is held out.",
        dropped=dict(sorted(dropped.items())),
        unit="images",
        cases=pick(cases),
        figures={
            "pairs by kind": counted(leaks),
            "pairs by parts": {parts: counted(of) for parts, of in by_parts.items()},
            "pairs": [
                f"{leak.train.id} ({leak.parts[0]}) – {leak.held_out.id} ({leak.parts[1]}): "
                f"{leak.kind}, {leak.detail}"
                for leak in leaks
            ],
        },
        warnings=tuple(warnings),
    )


def _message(leaks: Sequence[Leak]) -> str:
    """How many of which kind, the first pairs, and what to do."""
    counts = ", ".join(f"{count} × {kind}" for kind, count in counted(leaks).items())
    first = {leak.kind: leak for leak in reversed(leaks)}  # one of each kind, before a second
    named = [first[kind] for kind in KINDS if kind in first][:_NAMED]
    pairs = "; ".join(
        f"{leak.train.image.key} ({leak.parts[0]}) and {leak.held_out.image.key} "
        f"({leak.parts[1]}): {leak.kind}, {leak.detail}"
        for leak in named
    )
    return (
        f"Parts share what they should not, in {len(leaks)} pairs of images: {counts}. Such as "
        f"{pairs}. conditioning.html shows examples, conditioning.json lists all pairs, and "
        "tools/leak_check.py --page shows all side by side. Set data.conditioning.split=made to "
        "keep patients together, data.conditioning.leaks=drop to take such images out of "
        "training, or =warn to leave them."
    )
