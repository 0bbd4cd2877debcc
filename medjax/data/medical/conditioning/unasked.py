"""Leaves out images about which nothing is asked any more.

No model trains on such an image, and none is asked about it: it shares nothing with other parts,
belongs to no split, and is not counted in any. In SLAKE, for one, an image may be in the Chinese
training part and in the English test part; with English alone it is in the latter only.
"""

from collections.abc import Sequence

from medjax.data.medical.conditioning.settings import Settings
from medjax.data.medical.conditioning.step import Case, Report, pick
from medjax.data.medical.record import Record

_WHY = "no question left"


def step(records: Sequence[Record], settings: Settings) -> tuple[list[Record], Report]:
    """Drops images without questions."""
    del settings
    cases = [Case(record, record.id, _WHY) for record in records if not record.questions]
    return [record for record in records if record.questions], Report(
        "unasked",
        "Leaves out images about which no question is left.",
        {_WHY: len(cases)} if cases else {},
        unit="images",
        cases=pick({_WHY: cases}),
    )
