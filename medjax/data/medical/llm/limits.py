"""What a run may use: requests and tokens a minute, and money."""

import collections
import dataclasses
import threading
import time
from collections.abc import Callable

_MINUTE = 60.0


@dataclasses.dataclass
class Share:
    """A part of what a minute allows, or of a budget, that a request takes."""

    amount: float
    since: float = 0.0


class PerMinute:
    """At most so much in any 60 seconds; threads may share it."""

    def __init__(
        self,
        limit: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], object] = time.sleep,
    ):
        """Nothing is taken yet.

        Args:
          limit: how much; 0: any amount.
          clock: gives seconds.
          pause: waits for so many seconds; if it returns True, nothing is waited for any more.
        """
        self._limit, self._clock, self._pause = limit, clock, pause
        self._taken: collections.deque[Share] = collections.deque()
        self._lock = threading.Lock()

    def take(self, amount: float) -> Share:
        """Waits until so much may be taken; more than the limit is taken alone.

        Returns:
          The share; its amount may be set to what was really used.
        """
        while True:
            with self._lock:
                share = Share(amount, self._clock())
                if (wait := self._wait(share)) <= 0:
                    self._taken.append(share)
                    return share
            if self._pause(wait):
                return share

    def _wait(self, share: Share) -> float:
        """Seconds until the share may be taken."""
        while self._taken and self._taken[0].since + _MINUTE <= share.since:
            self._taken.popleft()
        if not self._limit:
            return 0
        used = sum(taken.amount for taken in self._taken)
        if used + share.amount <= self._limit or not self._taken:
            return 0
        for taken in self._taken:
            used -= taken.amount
            if used + share.amount <= self._limit:
                break
        return taken.since + _MINUTE - share.since


@dataclasses.dataclass(frozen=True)
class Prices:
    """Of a million tokens, in whatever currency; 0 where they cost nothing."""

    tokens_in: float = 0.0
    tokens_out: float = 0.0

    def cost(self, tokens_in: float, tokens_out: float) -> float:
        """Of so many tokens."""
        return (tokens_in * self.tokens_in + tokens_out * self.tokens_out) / 1e6


class BudgetSpent(Exception):
    """The next request might cost more than is left."""


class Budget:
    """Money that may be spent; threads may share it."""

    def __init__(self, most: float):
        """Nothing is spent yet; `most` may be infinite."""
        self._most, self._spent, self._reserved, self._shares = most, 0.0, 0.0, 0
        self._changed = threading.Condition()

    def reserve(self, amount: float) -> Share:
        """Sets aside what a request may cost at most, once that is known to be there.

        Raises:
          BudgetSpent: it is not there, and no other request is under way that may cost less than
            was set aside for it.
        """
        with self._changed:
            while self._spent + self._reserved + amount > self._most:
                if not self._shares:
                    raise BudgetSpent
                self._changed.wait()
            self._reserved += amount
            self._shares += 1
            return Share(amount)

    def settle(self, share: Share, cost: float) -> None:
        """Gives back what was set aside, and pays what the request did cost."""
        with self._changed:
            self._shares -= 1
            # Sums of floats leave a rest behind.
            self._reserved = self._reserved - share.amount if self._shares else 0.0
            self._spent += cost
            self._changed.notify_all()
