"""What the datasets of one run share: an image may be trained on in one, and held out in another.

Within a dataset its build has looked; here the built tables are compared, and no image is read.
"""

import logging
from collections.abc import Iterable, Mapping

from medjax.data.medical.conditioning.leaks import counted
from medjax.data.medical.conditioning.settings import Settings
from medjax.data.medical.conditioning.shared import KINDS, Leak, find
from medjax.data.medical.record import Record
from medjax.data.medical.source import MedicalSource
from medjax.errors import UserError

_log = logging.getLogger(__name__)

_NAMED = 3  # pairs that a message names


def check(trained: Iterable[object], held_out: Iterable[object], settings: Settings) -> None:
    """Compares what is trained on with what other datasets hold out.

    By images' hashes, captions and MedPix's numbers; patients of two datasets cannot be compared.

    Args:
      trained, held_out: sources of all stages; those that are not medical do not count.
      settings: `leaks` says what to do: "warn" tells, "off" does not look, "error" and "drop" end
        the run, for images can be dropped when a dataset is built alone.

    Raises:
      UserError: they share something.
    """
    if settings.leaks == "off":
        return
    ours, theirs = _parts(trained), _parts(held_out)
    leaks: list[Leak] = []
    for (dataset, split), records in ours.items():
        for (other, held_out_split), others in theirs.items():
            if dataset == other:
                continue
            leaks += find(
                list(records.values()),
                list(others.values()),
                distance=settings.hash_distance,
                parts=(f"{_name(dataset)} {split}", f"{_name(other)} {held_out_split}"),
                one_dataset=False,
            )
    if leaks and settings.leaks == "warn":
        _log.warning("%s", _message(leaks))
    elif leaks:
        raise UserError(
            f"{_message(leaks)} Name the other datasets in data.conditioning.against (name=folder) "
            "and set data.conditioning.leaks=drop: then such images leave the training part when "
            "it is built. Or set data.conditioning.leaks=warn to train on them all the same."
        )


def _parts(sources: Iterable[object]) -> dict[tuple[str, str], dict[str, Record]]:
    """The images of sources, each once, by built dataset and split."""
    parts: dict[tuple[str, str], dict[str, Record]] = {}
    for source in sources:
        if isinstance(source, MedicalSource):
            found: Mapping[str, Record] = {record.id: record for record in source.records()}
            known = parts.setdefault((source.built, source.split), {})
            # Of one image, sources of different tasks hold different captions.
            for id, record in found.items():
                if id not in known or len(record.questions) > len(known[id].questions):
                    known[id] = record
    return parts


def _name(built: str) -> str:
    return built.partition("/")[0]


def _message(leaks: list[Leak]) -> str:
    counts = ", ".join(f"{count} × {kind}" for kind, count in counted(leaks).items())
    first = {leak.kind: leak for leak in reversed(leaks)}  # one of each kind
    pairs = "; ".join(
        f"{leak.train.id} ({leak.parts[0]}) and {leak.held_out.id} ({leak.parts[1]}): "
        f"{leak.kind}, {leak.detail}"
        for leak in [first[kind] for kind in KINDS if kind in first][:_NAMED]
    )
    return (
        f"Training data and held-out data of other datasets share something, in {len(leaks)} pairs "
        f"of images: {counts}. Such as {pairs}."
    )
