"""Answers all requests of a plan, several at once; what stops it leaves the journal behind."""

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping

from medjax.data.medical.llm.asker import Ask, NotAsked, Outcome, Stopped, converse
from medjax.data.medical.llm.endpoint import Unanswered
from medjax.data.medical.llm.limits import BudgetSpent
from medjax.data.medical.llm.messages import Asking
from medjax.data.medical.llm.plan import Request
from medjax.errors import UserError

_log = logging.getLogger(__name__)

_GIVES_UP = 5  # requests in a row without an answer
_FAILS = 20  # requests from the first on whose answers can't be used


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
      UserError: the endpoint takes no such request or leaves some without an answer, or the model's
        answers are of no use.
      KeyboardInterrupt: after what was under way is answered.
    """
    workers = _Workers(requests, lambda request: converse(request, asking, ask), parallel, stop)
    try:
        for outcome in workers:
            done(outcome)
    except KeyboardInterrupt:
        stop.set()
        _log.warning("Waiting for the answers that are under way; Ctrl-C again does not wait.")
        workers.join()
        raise
    workers.judge()
    return workers.outcomes, workers.spent


class _Workers:
    """Threads that do requests; iterates over outcomes as they come.

    Attributes:
      outcomes: by key.
      spent: whether the budget ended the work.
    """

    def __init__(
        self,
        requests: Mapping[str, Request],
        do: Callable[[Request], Outcome],
        parallel: int,
        stop: threading.Event,
    ):
        self.outcomes: dict[str, Outcome] = {}
        self.spent = False
        self._requests, self._do, self._stop = requests, do, stop
        self._left = iter(requests.items())
        self._unanswered: list[Unanswered] = []
        self._in_a_row = 0
        self._failure: Exception | None = None
        self._lock = threading.Lock()
        self._news: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()  # None: a thread ends
        # Daemons: a second Ctrl-C does not wait for them.
        self._threads = [
            threading.Thread(target=self._work, daemon=True)
            for _ in range(min(parallel, len(requests)))
        ]
        for thread in self._threads:
            thread.start()

    def __iter__(self) -> Iterator[Outcome]:
        running = len(self._threads)
        while running:
            if (outcome := self._news.get()) is None:
                running -= 1
            else:
                yield outcome

    def join(self) -> None:
        """Waits for what is under way."""
        for thread in self._threads:
            thread.join()

    def judge(self) -> None:
        """Raises what ended the work before its time, if that was an error."""
        if self._failure is not None:
            raise self._failure
        if self._unanswered:
            raise UserError(
                f"The endpoint left {len(self._unanswered)} of {len(self._requests)} requests "
                f"without an answer ({self._unanswered[0]}). What was answered is in the journal: "
                "see that the server runs, then start the same command again."
            )
        if self._useless:
            fault = next(outcome.fault for outcome in self.outcomes.values())
            raise UserError(
                f"None of the first {len(self.outcomes)} requests got an answer that can be used "
                f"({fault}). Change model or prompt, and try them with --limit."
            )

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                with self._lock:
                    key, request = next(self._left, ("", None))
                if request is None:
                    break
                try:
                    result: Outcome | Exception = self._do(request)
                except Exception as error:  # for the thread that waits
                    result = error
                with self._lock:
                    self._note(key, result)
        finally:
            self._news.put(None)

    def _note(self, key: str, result: Outcome | Exception) -> None:
        """Keeps what came of a request; stops where going on makes no sense."""
        match result:
            case Outcome():
                self.outcomes[key], self._in_a_row = result, 0
                self._news.put(result)
                ends = self._useless
            case Unanswered():
                self._unanswered.append(result)
                self._in_a_row += 1
                ends = self._in_a_row == _GIVES_UP
            case BudgetSpent():
                self.spent = ends = True
            case Stopped():
                ends = True
            case _:
                self._failure = self._failure or result
                ends = True
        if ends:
            self._stop.set()

    @property
    def _useless(self) -> bool:
        """Whether so many answers were bad, and none good, that the others will be no better."""
        return len(self.outcomes) >= _FAILS and all(o.fault for o in self.outcomes.values())
