"""An endpoint, against a real server on this machine."""

import threading

import pytest

from medjax.data.medical.llm import answers, endpoint
from medjax.data.medical.llm.endpoint import Endpoint, Unanswered
from medjax.data.medical.llm.journal import Answer
from medjax.errors import UserError

from .conftest import KEY, completion

SCHEMA = answers.schema(("plane",), 3)
GOOD = completion("hello", usage=(7, 3))
BUSY = {"error": {"message": f"too busy for {KEY}"}}


def ask(server, **options) -> tuple[Answer, Endpoint]:
    asked = Endpoint(server.url, KEY, **({"retries": 2} | options))
    return asked.ask("m", [{"role": "user", "content": "x"}], SCHEMA, {"top_k": 5}), asked


def test_what_is_sent(server):
    server.answers(GOOD)
    assert ask(server)[0] == Answer("hello", "stop", 7, 3)
    ((headers, body),) = server.seen
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert body["path"] == "/v1/chat/completions"
    assert (body["model"], body["top_k"]) == ("m", 5)
    form = body["response_format"]
    assert (form["type"], form["json_schema"]["strict"]) == ("json_schema", True)
    assert form["json_schema"]["schema"] == answers.without_lengths(SCHEMA)


@pytest.mark.parametrize("status", [400, 422])
def test_an_endpoint_without_schemas_is_asked_in_words(server, status):
    refusal = (status, {"error": {"message": "no such field"}}, {})
    server.script = lambda body, number: refusal if "response_format" in body else GOOD
    answer, asked = ask(server)
    assert (answer.text, asked.takes_schema, asked.sent) == ("hello", False, 2)
    asked.ask("m", [], SCHEMA, {})
    assert asked.sent == 3  # it is not tried again


def test_a_request_that_is_refused_either_way(server):
    server.answers((400, {"error": {"message": "too long"}}, {}))
    asked = Endpoint(server.url, KEY)
    with pytest.raises(Unanswered, match="status 400: too long"):
        asked.ask("m", [], SCHEMA, {})
    assert asked.takes_schema


def test_the_server_says_when_to_come_again(server, pauses):
    server.answers((429, BUSY, {"Retry-After": "7"}), (503, BUSY, {"Retry-After": "11"}), GOOD)
    answer, asked = ask(server)
    assert (answer.text, pauses, asked.sent) == ("hello", [7.0, 11.0], 3)


def test_errors_and_broken_connections_are_asked_again(server, pauses):
    server.answers((500, BUSY, {}), None, GOOD)
    answer, asked = ask(server)
    assert (answer.text, asked.sent, len(pauses)) == ("hello", 3, 2)


def test_every_request_is_held_up_by_the_limit(server):
    server.answers((500, BUSY, {}), GOOD)
    held = []
    ask(server, before=lambda: held.append(len(server.seen)))
    assert held == [0, 1]


def test_in_the_end_it_is_unanswered(server):
    server.answers((500, BUSY, {}))
    with pytest.raises(Unanswered, match=r"status 500: too busy for \*\*\*"):
        ask(server)
    assert len(server.seen) == 3


def test_too_slow(server):
    over = threading.Event()
    server.script = lambda body, number: over.wait(10) and GOOD
    asked = Endpoint(server.url, KEY, timeout=0.05, retries=1)
    with pytest.raises(Unanswered, match="no answer in time"):
        asked.ask("m", [], SCHEMA, {})
    assert asked.sent == 2
    over.set()


def test_nobody_there(server):
    server.close()
    with pytest.raises(Unanswered, match="ConnectError"):
        ask(server)


@pytest.mark.parametrize(
    ("status", "hint"), [(401, "--key-env"), (403, "--key-env"), (404, "/v1"), (307, "--endpoint")]
)
def test_what_waiting_does_not_mend(server, status, hint):
    # A redirection may lead out of the house: it is not followed.
    headers = {"Location": server.url + "/elsewhere"} if status == 307 else {}
    server.answers((status, {"error": {"message": f"wrong {KEY}"}}, headers))
    with pytest.raises(UserError) as error:
        ask(server)
    assert f"status {status}: " in str(error.value)
    assert hint in str(error.value)
    assert KEY not in str(error.value)
    assert len(server.seen) == 1


@pytest.mark.parametrize("body", [{}, {"choices": []}, {"error": {"message": "x"}}, "text"])
def test_no_completion(server, body):
    server.answers(body)
    with pytest.raises(Unanswered, match="no chat completion"):
        ask(server)


def test_no_count_and_no_text(server):
    server.answers(completion(None, "length", usage=None))
    assert ask(server)[0] == Answer("", "length", None, None)


def test_a_proxy_gets_nothing_that_stays_here(server, monkeypatch):
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    server.answers(GOOD)
    assert ask(server)[0].text == "hello"


@pytest.mark.parametrize(
    ("host", "private"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("::1", True),
        ("10.1.2.3", True),
        ("192.168.0.9", True),
        ("fd00::1", True),
        ("8.8.8.8", False),
        ("::ffff:8.8.8.8", False),
        ("2606:4700::1111", False),
        ("no-such-host.invalid", False),
    ],
)
def test_private(host, private):
    assert endpoint.is_private(host) == private


def test_a_name_of_near_and_far_is_far(monkeypatch):
    found = [(0, 0, 0, "", (address, 0)) for address in ("10.0.0.1", "8.8.8.8")]
    monkeypatch.setattr(endpoint.socket, "getaddrinfo", lambda *_: found)
    assert not endpoint.is_private("mixed.example")
    monkeypatch.setattr(endpoint.socket, "getaddrinfo", lambda *_: found[:1])
    assert endpoint.is_private("near.example")


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://x/v1", "http://", "http://x:port/v1", "http://[::1/v1"]
)
def test_no_address(url):
    with pytest.raises(UserError, match="http://localhost:8000/v1"):
        endpoint.host_of(url)


@pytest.mark.parametrize("url", [f"http://me:{KEY}@x/v1", f"http://x/v1?key={KEY}"])
def test_a_secret_in_an_address(url):
    with pytest.raises(UserError) as error:
        endpoint.host_of(url)
    assert KEY not in str(error.value)
