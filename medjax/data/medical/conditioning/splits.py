"""Training, validation and test: as published, or made so that no patient is in two of them."""

import collections
import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

from medjax.data.medical.conditioning.settings import Settings
from medjax.data.medical.conditioning.step import Case, Report, pick
from medjax.data.medical.conditioning.words import same
from medjax.data.medical.record import SPLITS, Record
from medjax.errors import UserError

_NAMED = 5  # patients that a warning names


def step(records: Sequence[Record], settings: Settings) -> tuple[list[Record], Report]:
    """Gives every record a split; those that can have none are left out and counted.

    Raises:
      UserError: no record has a published split, or `split_sizes` does not fit.
    """
    make = _made if settings.split == "made" else _published
    return make(records, settings)


def _published(records: Sequence[Record], settings: Settings) -> tuple[list[Record], Report]:
    """The published parts; an image without one goes where its patient is, or is left out."""
    del settings
    parts: dict[str, set[str]] = collections.defaultdict(set)
    for record in records:
        if record.split and record.split not in SPLITS:
            raise UserError(f"{_where(record)}: its split is {record.split!r}, none of {SPLITS}.")
        if record.split and record.patient:
            parts[record.patient].add(record.split)
    if records and not any(record.split for record in records):
        raise UserError(
            "This dataset has no published split. Make one by patient: data.conditioning.split=made"
        )
    kept, joined, cases = [], 0, []
    for record in records:
        if not record.split:
            of_patient = parts.get(record.patient, set())
            if len(of_patient) != 1:
                cases.append(Case(record, record.patient, "no published split"))
                continue
            record = dataclasses.replace(record, split=next(iter(of_patient)))
            joined += 1
        kept.append(record)
    warnings = []
    several = [patient for patient, of_patient in parts.items() if len(of_patient) > 1]
    if several:
        warnings.append(
            f"{_count(len(several), 'patient')} in more than one part of the published split: "
            f"{_some(several)}. Results on held-out images of these patients are too good; "
            "data.conditioning.split=made keeps patients together."
        )
    if cases or joined:
        warnings.append(
            f"{_count(len(cases) + joined, 'image')} without a published split, where others have "
            f"one: {joined} put where the patient’s others are, {len(cases)} left out"
            + (f": {_some([case.record.id for case in cases])}." if cases else ".")
        )
    return kept, Report(
        "split",
        "Keeps the published split, and checks that no patient is in two parts of it.",
        {"no published split": len(cases)} if cases else {},
        unit="images",
        changed={"put where the patient’s other images are": joined} if joined else {},
        cases=pick({"no published split": cases}),
        figures={"parts": parts_of(kept), "patients_in_several_parts": sorted(several)},
        warnings=tuple(warnings),
    )


def _made(records: Sequence[Record], settings: Settings) -> tuple[list[Record], Report]:
    """A split by patient, dealt by a hash, so that neither order nor further cases change it."""
    group_of = _groups(records)
    dealt = sorted(set(group_of), key=lambda group: (_hash(settings.split_seed, group), group))
    # Of nothing there are no parts; whoever builds the dataset says what that means.
    counts = sizes(settings.split_sizes, len(dealt)) if dealt else dict.fromkeys(SPLITS, 0)
    part_of: dict[str, str] = {}
    start = 0
    # Held-out parts are dealt first: they stay what they are when training is given less or more.
    for part in reversed(SPLITS):
        end = start + counts[part]
        part_of.update(dict.fromkeys(dealt[start:end], part))
        start = end
    kept, left = [], []
    for record, group in zip(records, group_of, strict=True):
        if group in part_of:
            kept.append(dataclasses.replace(record, split=part_of[group]))
        else:
            left.append(Case(record, record.patient, "beyond split_sizes"))
    unknown = [record for record in records if not record.patient]
    warnings = []
    if unknown:
        warnings.append(
            f"{_count(len(unknown), 'image')} of no known patient, such as "
            f"{_where(unknown[0])}: split by image, so that images of one patient may be in two "
            "parts."
        )
    if left:
        warnings.append(
            f"split_sizes takes {start} of {len(dealt)} patients: {_count(len(left), 'image')} of "
            "the others were left out."
        )
    return kept, Report(
        "split",
        "Makes a split in which every patient is in one part alone.",
        {"beyond split_sizes": len(left)} if left else {},
        unit="images",
        cases=pick({"beyond split_sizes": left}),
        figures={"parts": parts_of(kept), "seed": settings.split_seed},
        warnings=tuple(warnings),
    )


def sizes(wanted: Sequence[float], patients: int) -> dict[str, int]:
    """How many patients each part has.

    Args:
      wanted: for each of `SPLITS`, shares that add up to 1, or numbers of patients.
      patients: that there are.

    Raises:
      UserError: it is neither, or there are fewer patients.
    """
    given = f"data.conditioning.split_sizes = {tuple(wanted)}"
    if len(wanted) != len(SPLITS) or min(wanted) < 0:
        raise UserError(f"{given}: give three sizes, of {', '.join(SPLITS)}.")
    if abs(sum(wanted) - 1) < 1e-6:
        # Held-out parts are rounded, and have a patient at least; training has the rest.
        held_out = {
            part: max(round(share * patients), 1) if share else 0
            for part, share in zip(SPLITS[1:], wanted[1:], strict=True)
        }
        counts = {SPLITS[0]: patients - sum(held_out.values())} | held_out
        if counts[SPLITS[0]] < (1 if wanted[0] else 0):
            raise UserError(f"{given}: {_count(patients, 'patient')} are too few for three parts.")
        return counts
    if any(size != int(size) for size in wanted):
        raise UserError(f"{given}: give shares that add up to 1, or numbers of patients.")
    if sum(wanted) > patients:
        raise UserError(f"{given}: there are {_count(patients, 'patient')} only.")
    return {part: int(size) for part, size in zip(SPLITS, wanted, strict=True)}


def parts_of(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """Patients, images, questions and diagnoses of each part."""
    found = {}
    for part in SPLITS:
        of_part = [record for record in records if record.split == part]
        found[part] = {
            "patients": len({record.patient for record in of_part if record.patient}),
            "images": len(of_part),
            "questions": sum(len(record.questions) for record in of_part),
            "diagnoses": len(
                {same(text) for record in of_part if (text := record.facts.get("diagnosis", ""))}
            ),
        }
    return found


def _groups(records: Sequence[Record]) -> list[str]:
    """What stays together: a patient's images, else the records of one image file."""
    first: dict[str, str] = {}
    for record in records:
        key = record.image.key
        first[key] = min(first.get(key, record.id), record.id)
    return [
        f"patient {record.patient}" if record.patient else f"image {first[record.image.key]}"
        for record in records
    ]


def _hash(seed: int, group: str) -> str:
    return hashlib.sha256(f"{seed}\n{group}".encode()).hexdigest()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _where(record: Record) -> str:
    return f"image {record.id}"
