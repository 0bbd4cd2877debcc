"""A language model's server that answers as a test wants, and a dataset to ask it about."""

import contextlib
import http.server
import json
import pathlib
import re
import socket
import sys
import threading
import time
import types

import make_questions
import numpy as np
import pytest

from medjax import cli
from medjax.data.medical import catalogue
from medjax.data.medical.dataset import Dataset
from medjax.data.medical.record import FileImage, Record

KEY = "sk-drawn-0123456789"
REQUESTS = 9  # 4 captions and 5 cases, of 5 and 6 images
ROWS = 17  # of pairs


def pairs_about(body: dict) -> str:
    """What a good model answers: two pairs, made of the caption that it is told."""
    *_, first = (m for m in body["messages"][:2] if m["role"] == "user")
    content = first["content"]
    text = content if isinstance(content, str) else content[0]["text"]
    found = re.search(r"^Caption: (.*)$", text, re.MULTILINE)
    caption = found[1] if found else "nothing"
    task = "diagnosis" if "diagnosis" in text else "modality"
    pairs = [
        {"question": f"Is {caption} shown?", "answer": "yes", "answer_type": "closed"},
        {"question": f"What is seen, {task}?", "answer": caption, "answer_type": "open"},
    ]
    return json.dumps({"pairs": [pair | {"task": "findings"} for pair in pairs]})


def completion(text: str, finish: str = "stop", usage: tuple[int, int] | None = (100, 20)) -> dict:
    """The body of a good answer."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant"}}
    choice["message"]["content"] = text
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    if usage:
        body["usage"] = dict(
            zip(("prompt_tokens", "completion_tokens"), usage, strict=True), total_tokens=sum(usage)
        )
    return body


BAD = completion("I can't.")


class Server:
    """Answers chat completions; `script` says how.

    Attributes:
      script: (body, number of the request from 0 on) -> what is sent: a body, a status and a body
        (and headers), or None: the connection breaks in the middle of an answer.
      seen: the requests: headers and body.
      url: base address.
    """

    def __init__(self):
        self.script = lambda body, number: completion(pairs_about(body))
        self.seen: list[tuple[dict, dict]] = []
        self._lock = threading.Lock()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server._lock:
                    number = len(server.seen)
                    server.seen.append((dict(self.headers), body | {"path": self.path}))
                made = server.script(body, number)
                status, made, headers = made if isinstance(made, tuple) else (200, made, {})
                data = b"x" * 100 if made is None else json.dumps(made).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # who asked may have lost patience
                    self.wfile.write(data[: len(data) // 2] if made is None else data)
                if made is None:
                    self.wfile.flush()
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True

            def log_message(self, *unused):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        serve = self._server.serve_forever
        threading.Thread(target=serve, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def answers(self, *made):
        """Scripts one answer a request; the last is that to all further ones."""
        self.script = lambda body, number: made[min(number, len(made) - 1)]

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def pauses(monkeypatch) -> list[float]:
    """How long openai's client would have slept before it asked again."""
    import openai._base_client

    slept: list[float] = []
    clock = types.SimpleNamespace(sleep=slept.append, time=time.time)
    monkeypatch.setattr(openai._base_client, "time", clock)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID"):
        monkeypatch.delenv(name, raising=False)
    return slept


def make_records(folder) -> list[Record]:
    """Six images of four cases; two share what is known of them, one is without a caption."""
    captions = ("bright mass", "dark cyst", "dark cyst", "thin line", "", "round node")
    cases = ("C1", "C2", "C2", "C3", "C3", "C4")
    records = []
    for number, (caption, case) in enumerate(zip(captions, cases, strict=True)):
        facts = {"caption": caption, "modality": "MR", "diagnosis": f"D{case}", "age": "71"}
        records.append(
            Record(
                id=f"I{number}",
                image=FileImage.at(folder / f"I{number}.png"),
                patient=case,
                split=("train", "train", "train", "validation", "validation", "test")[number],
                facts={key: text for key, text in facts.items() if text},
                hidden=((0, 0, 2, 4),),
                where=f"drawn.json: I{number}",
            )
        )
    return records


@pytest.fixture
def dataset(tmp_path, monkeypatch) -> str:
    """What --data is for the drawn records."""
    from PIL import Image

    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(6):
        Image.fromarray(np.full((5, 4, 3), 200 + number, np.uint8)).save(folder / f"I{number}.png")
    drawn = Dataset(
        name="medpix2",
        title="DRAWN DATA",
        licence="",
        source="",
        files="",
        read=lambda path, counter: iter(make_records(path)),
    )
    monkeypatch.setattr(catalogue, "dataset", {"medpix2": drawn}.__getitem__)
    return f"medpix2={folder}"


@pytest.fixture
def make(dataset, server, tmp_path, monkeypatch, capsys):
    """Runs the command; its exit code, what it printed as JSON, and what it said."""
    output = tmp_path / "out" / "pairs.jsonl"

    def command(*arguments: str, **replaced: str):
        options = {"data": dataset, "output": output, "endpoint": server.url, "model": "llama"}
        given = [f"--{k}={v}" for k, v in (options | replaced).items() if v]
        monkeypatch.setattr(sys, "argv", ["make_questions.py", *given, "--json", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            cli.run(make_questions.main)
        out, err = capsys.readouterr()
        return exit_.value.code, json.loads(out) if out else None, err

    command.output = output
    command.journal = output.with_name("pairs.jsonl.journal")
    return command


def rows(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def contents(server) -> list[str]:
    return [json.dumps(body["messages"]) for _, body in server.seen]
