"""Asks an endpoint for what the journal does not hold, within limits; and what that will take."""

import contextlib
import dataclasses
import math
import threading
from collections.abc import Callable, Mapping

from medjax.data.medical.llm import endpoint, run
from medjax.data.medical.llm.asker import Asker, Outcome, Replay, Used
from medjax.data.medical.llm.journal import Journal
from medjax.data.medical.llm.limits import Budget, PerMinute, Prices
from medjax.data.medical.llm.messages import Asking
from medjax.data.medical.llm.plan import Request


@dataclasses.dataclass(frozen=True)
class Service:
    """An endpoint, and how much of it may be used.

    Attributes:
      url: base address.
      key: of the API, never written anywhere; "" if it needs none.
      parallel: requests at once.
      requests_per_minute: at most, those that are sent again included; 0: any number.
      tokens_per_minute: at most, in and out; 0: any number.
      timeout: seconds that an answer may take.
      retries: how often a request is sent again.
      prices: of tokens.
      max_cost: that a run may have, in the prices' currency.
    """

    url: str
    key: str = dataclasses.field(default="", repr=False)
    parallel: int = 4
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    timeout: float = 120.0
    retries: int = 5
    prices: Prices = dataclasses.field(default_factory=Prices)
    max_cost: float = math.inf


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What requests will take, about.

    Attributes:
      requests: that are to be asked.
      tokens_in: if every first answer can be used.
      tokens_out: likewise; as long as earlier answers, or as texts of their kind.
      cost: likewise.
      cost_at_most: if every request is asked as often as it may be, with answers as long as they
        may be.
    """

    requests: int
    tokens_in: int
    tokens_out: int
    cost: float
    cost_at_most: float


def forecast(left: Mapping[str, Request], asking: Asking, prices: Prices, cached: Used) -> Forecast:
    """Of requests that are to be asked; `cached` are answers of the same kind."""
    known, attempts = cached.answers, asking.attempts
    each = cached.tokens_out / known if known else asking.tokens_out_expected
    tokens_in = sum(request.tokens for request in left.values())
    tokens_out = round(each * len(left))
    # An attempt is told what the earlier ones answered.
    longest = asking.tokens_out_at_most * len(left)
    most_in = tokens_in * attempts + longest * (attempts * (attempts - 1) // 2)
    return Forecast(
        len(left),
        tokens_in,
        tokens_out,
        prices.cost(tokens_in, tokens_out),
        prices.cost(most_in, longest * attempts),
    )


@dataclasses.dataclass(frozen=True)
class Work:
    """What a service did.

    Attributes:
      outcomes: by the requests' keys.
      asked: what that took.
      sent: HTTP requests, those included that were sent again.
      took_schema: whether the endpoint took the JSON schema; if not, it was told in words alone.
      spent: whether the budget was spent before all was answered.
    """

    outcomes: Mapping[str, Outcome]
    asked: Used
    sent: int
    took_schema: bool
    spent: bool


def ask(
    left: Mapping[str, Request],
    asking: Asking,
    service: Service,
    journal: Journal,
    replay: Replay,
    done: Callable[[Outcome], object] = lambda outcome: None,
) -> Work:
    """Asks for answers; `done` is told of each outcome as it comes.

    Raises:
      UserError, KeyboardInterrupt: see `run.answer`; the journal has all that was answered.
    """
    stop = threading.Event()
    requests = PerMinute(service.requests_per_minute, pause=stop.wait)
    opened = endpoint.Endpoint(
        service.url,
        service.key,
        timeout=service.timeout,
        retries=service.retries,
        before=lambda: requests.take(1),
    )
    with contextlib.closing(opened):
        asker = Asker(
            replay,
            asking,
            journal,
            opened,
            prices=service.prices,
            budget=Budget(service.max_cost),
            tokens=PerMinute(service.tokens_per_minute, pause=stop.wait),
            stop=stop,
        )
        outcomes, spent = run.answer(
            left, asking, asker, parallel=service.parallel, stop=stop, done=done
        )
    return Work(outcomes, asker.asked, opened.sent, opened.takes_schema, spent)
