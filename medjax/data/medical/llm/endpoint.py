"""An OpenAI-compatible endpoint: where it is, and how it is asked.

The openai package (the extra `llm`) is the client: it asks again after 408, 409, 429, 5xx, timeouts
and broken connections, as late as the server's Retry-After says.
"""

import ipaddress
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from medjax.data.medical.llm import answers
from medjax.data.medical.llm.journal import Answer
from medjax.data.medical.llm.messages import Messages
from medjax.errors import UserError

_REFUSED = (400, 422)  # statuses that say: not this request, others may do
_UNANSWERED = (408, 409, 429)  # and from 500 on: asking later may help


class Unanswered(Exception):
    """The endpoint did not answer a request, though it was asked again and again."""


def host_of(url: str) -> str:
    """The host of an endpoint's address.

    Raises:
      UserError: it is no such address, or holds a secret.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname
        secret = parts.username or parts.password or parts.query or parts.fragment
        _ = parts.port  # raises if it is no number
    except ValueError as error:
        raise UserError(f"--endpoint is no address ({error}): {_EXAMPLE}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise UserError(f"--endpoint is {url!r}, no address: {_EXAMPLE}")
    if secret:
        # Not shown: it may be a password.
        raise UserError(
            "--endpoint must be scheme, host, port and path alone: keys are read from the "
            f"environment. {_EXAMPLE}"
        )
    return host


_EXAMPLE = "write it like http://localhost:8000/v1."


def is_private(host: str) -> bool:
    """Whether a host is this machine or in a private network, by all addresses of its name."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False  # whoever can't be looked up is not known to be near
    return bool(found) and all(_is_private_address(address) for address in found)


def _is_private_address(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_private


class Endpoint:
    """Answers requests; threads may share it.

    Attributes:
      sent: HTTP requests so far, those included that were asked again.
      takes_schema: False once it has refused `response_format`.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        timeout: float = 120.0,
        retries: int = 5,
        before: Callable[[], object] = lambda: None,
    ):
        """Nothing is sent yet.

        Args:
          url: base address, such as "http://localhost:8000/v1".
          key: of the API; "" if it needs none.
          timeout: seconds that an answer may take.
          retries: how often a request is sent again.
          before: called before each HTTP request, which it may hold up.

        Raises:
          UserError: the address is wrong, or openai is not installed.
        """
        host = host_of(url)
        self._openai = openai = _openai()
        self._url, self._key, self._before = url, key, before
        self._lock = threading.Lock()
        self.sent, self.takes_schema = 0, True
        self._client = openai.OpenAI(
            base_url=url,
            api_key=key or "none",  # the client wants one; servers without keys don't look
            timeout=timeout,
            max_retries=retries,
            http_client=openai.DefaultHttpxClient(
                # Neither a redirection nor a proxy may carry data out of the house.
                follow_redirects=False,
                trust_env=not is_private(host),
                event_hooks={"request": [self._count]},
            ),
        )

    def close(self) -> None:
        """Closes its connections."""
        self._client.close()

    def ask(
        self, model: str, messages: Messages, schema: dict[str, Any], parameters: Mapping[str, Any]
    ) -> Answer:
        """Asks for an answer.

        The schema is asked for as `response_format`. An endpoint that refuses that is asked
        without; the messages say the same in words.

        Args:
          model: as the endpoint calls it.
          messages: in the form of OpenAI's chat completions.
          schema: of the answer; it is not checked here.
          parameters: further ones of the request's body.

        Raises:
          Unanswered: it could not be reached, was overloaded or broken, or refused this request.
          UserError: it takes no request of this kind: wrong key, unknown model or address.
        """
        request = {"model": model, "messages": list(messages), "extra_body": dict(parameters)}
        if self.takes_schema:
            form = {"name": "pairs", "strict": True, "schema": answers.without_lengths(schema)}
            formed = request | {"response_format": {"type": "json_schema", "json_schema": form}}
            try:
                return self._send(formed)
            except self._openai.APIStatusError as error:
                if error.status_code not in _REFUSED:
                    self._judge(error)
        try:
            answer = self._send(request)
        except self._openai.APIStatusError as error:
            self._judge(error)
            raise
        self.takes_schema = False
        return answer

    def _send(self, request: dict[str, Any]) -> Answer:
        try:
            completion = self._client.chat.completions.create(**request)
        except self._openai.APIStatusError:
            raise
        except self._openai.APITimeoutError as error:
            raise Unanswered("no answer in time") from error
        except (self._openai.OpenAIError, ValueError) as error:  # ValueError: what came is no JSON
            raise Unanswered(self._hidden(f"{_cause(error)}")) from error
        choices = getattr(completion, "choices", None)
        if not choices or not hasattr(choices[0], "message"):
            raise Unanswered(f"no chat completion came from {self._url}")
        usage = completion.usage
        return Answer(
            text=choices[0].message.content or "",
            finish=choices[0].finish_reason or "",
            tokens_in=usage.prompt_tokens if usage else None,
            tokens_out=usage.completion_tokens if usage else None,
        )

    def _judge(self, error: Any) -> None:
        """Raises what a status means."""
        status, said = error.status_code, self._hidden(f"{_said(error):.300}")
        if status in _UNANSWERED or status in _REFUSED or status >= 500:
            raise Unanswered(f"status {status}: {said}") from error
        hint = {
            401: "give the right key in the environment (--key-env)",
            403: "give a key that may use this model (--key-env)",
            404: "compare --endpoint (does it end in /v1?) and --model with what the server has",
        }.get(status, "compare --endpoint with where the server is")
        raise UserError(f"{self._url} answers with status {status}: {said}; {hint}.") from error

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    def _count(self, _request: Any) -> None:
        self._before()
        with self._lock:
            self.sent += 1


def _cause(error: BaseException) -> str:
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {cause}"


def _said(error: Any) -> str:
    body = error.body if isinstance(error.body, dict) else {}
    return str(body.get("message") or error.message).strip()


def _openai() -> Any:
    try:
        import openai
    except ImportError as error:
        raise UserError("Asking a language model needs openai: pip install -e '.[llm]'.") from error
    return openai
