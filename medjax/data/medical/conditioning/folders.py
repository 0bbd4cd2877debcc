"""Takes out of reports where files lie: that is nobody's business, and differs between machines."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from medjax.data.medical.conditioning.run import Conditioned
from medjax.data.medical.conditioning.settings import Settings
from medjax.data.medical.conditioning.step import Report


def taken_out(conditioned: Conditioned) -> tuple[Report, ...]:
    """The reports, in whose texts files are named from the dataset's folder on."""
    records = [*conditioned.records]
    for report in conditioned.reports:
        for case in report.cases:
            records += [case.record, *([case.other] if case.other else [])]
    roots: dict[str, None] = {}
    images = {os.path.dirname(record.image.key.partition("#")[0]) for record in records}
    if absolute := sorted(filter(os.path.isabs, images)):
        roots[os.path.commonpath(absolute)] = None
    settings = conditioned.settings
    roots |= dict.fromkeys(spec.partition("=")[2] for spec in settings.against)
    roots |= {os.path.dirname(path): None for path in _files(settings)}
    found = [root for root in roots if os.path.isabs(root) and root != os.sep]
    found.sort(key=len, reverse=True)

    def short(value: Any) -> Any:
        if isinstance(value, str):
            for root in found:
                value = value.replace(root.rstrip(os.sep) + os.sep, "")
            return value
        if isinstance(value, Mapping):
            return {short(key): short(of_key) for key, of_key in value.items()}
        return [short(item) for item in value] if isinstance(value, list | tuple) else value

    return tuple(
        dataclasses.replace(
            report,
            does=short(report.does),
            dropped=short(report.dropped),
            changed=short(report.changed),
            figures=short(report.figures),
            warnings=tuple(short(report.warnings)),
            cases=tuple(
                dataclasses.replace(case, text=short(case.text), why=short(case.why))
                for case in report.cases
            ),
        )
        for report in conditioned.reports
    )


def of_settings(settings: Settings) -> dict[str, Any]:
    """The settings, ready for JSON, with the names of files and datasets alone."""
    return dataclasses.asdict(settings) | {
        "question_tables": [PurePath(path).name for path in settings.question_tables],
        "tokenizer": PurePath(settings.tokenizer).name,
        "against": [spec.partition("=")[0] for spec in settings.against],
    }


def _files(settings: Settings) -> list[str]:
    return [path for path in (*settings.question_tables, settings.tokenizer) if path]
