"""Which requests a dataset needs: records about which a model would be told the same share one."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from medjax.data.faults import BadExample, FaultCounter
from medjax.data.medical.llm import messages
from medjax.data.medical.llm.messages import Asking
from medjax.data.medical.llm.prompt import Prompt
from medjax.data.medical.record import Record


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked first about one or several records.

    Attributes:
      prompt: that is filled in.
      record: the first of those that share it.
      tokens: that it is, about.
    """

    prompt: Prompt
    record: Record
    tokens: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """The requests of a dataset.

    Attributes:
      requests: by key, in the dataset's order.
      places: record, prompt and the request's key, in the dataset's order; a record's places follow
        the order of the prompts.
      lacking: how many times a prompt was not used as a record lacks a fact, by prompt and fact.
    """

    requests: Mapping[str, Request]
    places: Sequence[tuple[Record, Prompt, str]]
    lacking: Mapping[str, int]

    @property
    def records(self) -> int:
        """How many records are asked about."""
        return len({record.id for record, _, _ in self.places})


def make(
    records: Iterable[Record],
    prompts: Sequence[Prompt],
    asking: Asking,
    counter: FaultCounter,
) -> Plan:
    """Plans what is asked.

    Args:
      records: in the dataset's order.
      prompts: in the order in which a record's pairs shall stand in the table.
      asking: how.
      counter: told of records whose image can't be sent.
    """
    requests: dict[str, Request] = {}
    places = []
    lacking: collections.Counter[str] = collections.Counter()
    for record in records:
        for prompt in prompts:
            if fact := prompt.lacks(record):
                lacking[f"{prompt.name}: no {fact}"] += 1
                continue
            try:
                first = messages.first(prompt, record, asking)
            except BadExample as fault:
                counter.add(fault)
                break
            key = asking.key(prompt, first)
            if key not in requests:
                requests[key] = Request(prompt, record, messages.estimate(first))
            places.append((record, prompt, key))
    return Plan(requests, places, lacking)
