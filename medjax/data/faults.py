"""What to do about an example that can't be used: stop at once, or leave it out and count it."""

import collections
import logging

from medjax.errors import UserError

_log = logging.getLogger(__name__)

POLICIES = ("error", "skip")


class BadExample(UserError):
    """An example that can't be used; `reason` is a short word for the count of such faults."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple:
        # Exceptions are rebuilt from `args`, here one too few, when a worker process raises them.
        return type(self), (self.reason, str(self))


class FaultCounter:
    """Stops at the first bad example, or counts them, as the user chose.

    Attributes:
      stops: whether the first bad example ends everything.
      counts: how many examples were left out, by reason.
    """

    _SHOWN = 5  # faults that are logged in full

    def __init__(self, on_bad_example: str):
        """`on_bad_example` is "error" or "skip".

        Raises:
          UserError: it is neither.
        """
        if on_bad_example not in POLICIES:
            raise UserError(f'on_bad_example is {on_bad_example!r}: set it to "error" or "skip".')
        self.stops = on_bad_example == "error"
        self.counts: collections.Counter[str] = collections.Counter()

    def add(self, fault: BadExample) -> None:
        """Leaves out one example.

        Raises:
          BadExample: the policy is to stop.
        """
        if self.stops:
            raise BadExample(
                fault.reason,
                f"{fault} Mend it, or leave such rows out with data.on_bad_example=skip.",
            ) from fault
        self.counts[fault.reason] += 1
        if self.counts.total() <= self._SHOWN:
            _log.warning("Left out: %s", fault)

    def summary(self) -> str:
        """For example "3 missing image, 1 invalid JSON"; empty if nothing was left out."""
        return ", ".join(f"{count} {reason}" for reason, count in self.counts.most_common())
