"""Answers all requests of a plan, several at once; what stops it leaves the journal behind."""

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from medjax.data.medical.llm.asker import Ask, NotAsked, Outcome, Stopped, converse
from medjax.data.medical.llm.endpoint import Unanswered
from medjax.data.medical.llm.limits import BudgetSpent
from medjax.data.medical.llm.messages import Asking
from medjax.data.medical.llm.plan import Request
from medjax.errors import UserError

_log = logging.getLogger(__name__)

_GIVES_UP = 5  # requests in a row without an answer


def known(
    requests: Mapping[str, Request], asking: Asking, replay: Ask
) -> tuple[dict[str, Outcome], dict[str, Request]]:
    """Those that the journal answers, and those that are left."""
    outcomes, left = {}, {}
    for key, request in requests.items():
        try:
            outcomes[key] = converse(request, asking, replay)
        except NotAsked:
            left[key] = request
    return outcomes, left


def answer(
    requests: Mapping[str, Request],
    asking: Asking,
    ask: Ask,
    *,
    parallel: int,
    stop: threading.Event,
    done: Callable[[Outcome], object],
) -> tuple[dict[str, Outcome], bool]:
    """Answers requests.

    Args:
      requests: by key.
      asking: how.
      ask: asks once; threads share it.
      parallel: how many at once.
      stop: is set when nothing more shall be asked; what is under way is waited for.
      done: is told of each outcome, in this thread.

    Returns:
      The outcomes by key; whether the budget was spent before all were answered.

    Raises:
      UserError: the endpoint takes no such request, or leaves some without an answer.
      KeyboardInterrupt: after what was under way is answered.
    """
    outcomes: dict[str, Outcome] = {}
    unanswered: list[Unanswered] = []
    in_a_row, spent, failure = 0, False, None
    results = _Workers(requests, lambda request: converse(request, asking, ask), parallel, stop)
    try:
        for key, result in results:
            match result:
                case Outcome():
                    outcomes[key], in_a_row = result, 0
                    done(result)
                case BudgetSpent():
                    spent = True
                    stop.set()
                case Stopped():
                    pass
                case Unanswered():
                    unanswered.append(result)
                    in_a_row += 1
                    if in_a_row == _GIVES_UP:
                        stop.set()
                case _:
                    failure = failure or result
                    stop.set()
    except KeyboardInterrupt:
        stop.set()
        _log.warning("Waiting for the answers that are under way; Ctrl-C again does not wait.")
        results.join()
        raise
    if failure is not None:
        raise failure
    if unanswered:
        raise UserError(
            f"The endpoint left {len(unanswered)} of {len(requests)} requests without an answer "
            f"({unanswered[0]}). What was answered is in the journal: see that the server runs, "
            "then start the same command again."
        )
    return outcomes, spent


class _Workers:
    """Threads that do requests; iterates over (key, result or exception) as they come."""

    def __init__(
        self,
        requests: Mapping[str, Request],
        do: Callable[[Request], Outcome],
        parallel: int,
        stop: threading.Event,
    ):
        self._left = iter(requests.items())
        self._lock = threading.Lock()
        self._do, self._stop = do, stop
        self._results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._running = min(parallel, len(requests))
        # Daemons: a second Ctrl-C does not wait for them.
        self._threads = [
            threading.Thread(target=self._work, daemon=True) for _ in range(self._running)
        ]
        for thread in self._threads:
            thread.start()

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        while self._running:
            item = self._results.get()
            if item is None:
                self._running -= 1
            else:
                yield item

    def join(self) -> None:
        """Waits for what is under way, whose results are not wanted."""
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                with self._lock:
                    item = next(self._left, None)
                if item is None:
                    break
                key, request = item
                try:
                    self._results.put((key, self._do(request)))
                except Exception as error:  # handed to the thread that waits
                    self._results.put((key, error))
        finally:
            self._results.put(None)
