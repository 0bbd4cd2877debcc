"""Asks until an answer can be used: the journal first, then the endpoint."""

import dataclasses
import threading
from collections.abc import Callable

from medjax.data.faults import BadExample
from medjax.data.medical.llm import answers, messages
from medjax.data.medical.llm.answers import Pair
from medjax.data.medical.llm.endpoint import Endpoint
from medjax.data.medical.llm.journal import Answer, Journal
from medjax.data.medical.llm.limits import Budget, PerMinute, Prices
from medjax.data.medical.llm.messages import Asking, Messages
from medjax.data.medical.llm.plan import Request
from medjax.data.medical.llm.prompt import Prompt

# Gives the answer to messages; what it raises ends the conversation.
Ask = Callable[[Prompt, Messages], Answer]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a request.

    Attributes:
      pairs: all that the last answer has; none if it can't be used.
      fault: why it can't be used.
    """

    pairs: tuple[Pair, ...] = ()
    fault: BadExample | None = None


def converse(request: Request, asking: Asking, ask: Ask) -> Outcome:
    """Asks until the answer can be used or the attempts are over; says each time what is wrong."""
    prompt, schema = request.prompt, asking.schema(request.prompt)
    told: Messages = messages.first(prompt, request.record, asking)
    outcome = Outcome()
    for _ in range(asking.attempts):
        answer = ask(prompt, told)
        try:
            return Outcome(answers.read(answer.text, answer.finish, schema, asking.language))
        except BadExample as fault:
            outcome = Outcome(fault=fault)
            told = messages.again(told, answer.text, str(fault))
    return outcome


class NotAsked(Exception):
    """The journal does not hold the answer."""


class Stopped(Exception):
    """No further request may be sent."""


@dataclasses.dataclass
class Used:
    """What answers took.

    Attributes:
      answers: of the model.
      tokens_in: of the requests.
      tokens_out: of the answers.
      uncounted: answers whose tokens are estimated, as the endpoint did not count them.
    """

    answers: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    uncounted: int = 0

    def add(self, told: Messages, answer: Answer) -> tuple[int, int]:
        """Counts an answer; its tokens in and out."""
        tokens_in, tokens_out = answer.tokens_in, answer.tokens_out
        if tokens_in is None or tokens_out is None:
            self.uncounted += 1
            tokens_in, tokens_out = messages.estimate(told), messages.estimate_text(answer.text)
        self.answers += 1
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out
        return tokens_in, tokens_out


class Replay:
    """Asks the journal alone; `cached` is what it has taken from there."""

    def __init__(self, asking: Asking, journal: Journal):
        self._asking, self._journal = asking, journal
        self._lock = threading.Lock()
        self._taken: set[str] = set()
        self.cached = Used()

    def __call__(self, prompt: Prompt, told: Messages) -> Answer:
        """See `Ask`.

        Raises:
          NotAsked: the journal does not have it.
        """
        key = self._asking.key(prompt, told)
        if (answer := self._journal.get(key)) is None:
            raise NotAsked
        with self._lock:
            if key not in self._taken:  # the beginning of an unfinished conversation is read twice
                self._taken.add(key)
                self.cached.add(told, answer)
        return answer


class Asker:
    """Asks the journal, then the endpoint; threads may share it.

    Attributes:
      asked: what the endpoint was asked for.
    """

    def __init__(
        self,
        replay: Replay,
        asking: Asking,
        journal: Journal,
        endpoint: Endpoint,
        *,
        prices: Prices,
        budget: Budget,
        tokens: PerMinute,
        stop: threading.Event,
    ):
        """`tokens` are those that a minute allows; once `stop` is set nothing more is sent."""
        self._replay, self._asking, self._journal = replay, asking, journal
        self._endpoint, self._prices, self._budget = endpoint, prices, budget
        self._tokens, self._stop = tokens, stop
        self._lock = threading.Lock()
        self.asked = Used()

    def __call__(self, prompt: Prompt, told: Messages) -> Answer:
        """See `Ask`.

        Raises:
          Stopped, BudgetSpent, Unanswered, UserError.
        """
        try:
            return self._replay(prompt, told)
        except NotAsked:
            pass
        estimated, most = messages.estimate(told), self._asking.tokens_out_at_most
        money = self._budget.reserve(self._prices.cost(estimated, most))
        cost = 0.0
        try:
            share = self._tokens.take(estimated + self._asking.tokens_out_expected)
            if self._stop.is_set():
                raise Stopped
            answer = self._endpoint.ask(
                self._asking.model,
                told,
                self._asking.schema(prompt),
                self._asking.parameters,
            )
            with self._lock:
                used = self.asked.add(told, answer)
            cost, share.amount = self._prices.cost(*used), sum(used)
            about = {"model": self._asking.model, "prompt": prompt.label}
            self._journal.add(self._asking.key(prompt, told), answer, **about)
            return answer
        finally:
            self._budget.settle(money, cost)
