"""The command when it is killed, stopped, limited or left without answers."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import types

import make_questions

from medjax.data.medical.llm import run, service
from medjax.data.medical.llm.limits import PerMinute

from .conftest import BAD, REQUESTS, ROWS, completion, contents, rows


def test_a_model_that_is_no_good_is_not_asked_for_ever(make, server, monkeypatch):
    monkeypatch.setattr(run, "_FAILS", 4)
    server.answers(BAD)
    code, told, err = make("--parallel=1", "--attempts=2")
    assert (code, told) == (2, None)
    assert "None of the first 4 requests got an answer that can be used (The answer is not J" in err
    assert len(server.seen) == 8
    assert not make.output.exists()
    # One good answer, and the others are failures to be told of.
    server.seen.clear()
    make.journal.unlink()
    good = completion(json.dumps({"pairs": []}))
    server.answers(good, BAD)
    code, _, err = make("--parallel=1", "--attempts=1")
    assert code == 2
    assert "8 requests failed, 1 gave no pair." in err


def test_a_conversation_that_broke_off_goes_on(make, server):
    server.answers(BAD, None, completion(json.dumps({"pairs": []})))
    only = ("--limit=1", "--prompt=caption", "--retries=0")
    assert make(*only)[0] == 2
    make(*only)
    first, second, third = contents(server)
    assert (second, third != first) == (third, True)
    _, told, _ = make(*only, "--dry-run")
    assert told["forecast"]["requests"] == 0


def test_what_is_cached_is_counted_once(make, server):
    good = server.script
    server.script = lambda body, number: (BAD, None)[number] if number < 2 else good(body, number)
    only = ("--limit=1", "--prompt=caption", "--retries=0")
    make(*only)
    code, told, _ = make(*only)
    assert (code, told["cached"], told["asked"], told["cost_of_cached"]) == (0, 1, 1, 0)
    assert (told["tokens_in"], told["tokens_out"]) == (100, 20)


def test_limits_are_those_that_were_asked_for(make, server, monkeypatch):
    made = []

    class Limit(PerMinute):
        def __init__(self, limit, *, pause):
            super().__init__(limit, pause=self.wait)
            self.limit, self.taken, self.waits = limit, [], 0
            made.append(self)

        def take(self, amount):
            self.taken.append(super().take(amount))
            return self.taken[-1]

        def wait(self, seconds):
            self.waits += 1
            return True

    monkeypatch.setattr(service, "PerMinute", Limit)
    good = server.script
    busy = (500, {"error": {"message": "busy"}}, {})
    server.script = lambda body, number: busy if number == 0 else good(body, number)
    limits = ("--requests-per-minute=6", "--tokens-per-minute=100000")
    code, _, err = make(*limits, "--parallel=1")
    assert code == 0, err
    by_limit = {limit.limit: limit for limit in made}
    requests, tokens = by_limit[6], by_limit[100_000]
    assert [share.amount for share in requests.taken] == [1] * (REQUESTS + 1)  # one was sent twice
    assert requests.waits == REQUESTS + 1 - 6
    assert [share.amount for share in tokens.taken] == [120] * REQUESTS  # as the server counts


KILLED = """
import importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("drawn", sys.argv.pop(1))
drawn = importlib.util.module_from_spec(spec)
spec.loader.exec_module(drawn)
import make_questions
from medjax import cli
from medjax.data.medical import catalogue, dataset
made = dataset.Dataset("medpix2", *[""] * 4, lambda path, counter: drawn.make_records(path))
catalogue.dataset = lambda name: made
cli.run(make_questions.main)
"""


def test_a_run_that_is_killed_goes_on(make, server, dataset, tmp_path):
    make()
    whole = make.output.read_bytes()
    make.output.unlink()
    make.journal.unlink()
    server.seen.clear()
    good = server.script

    def script(body, number):
        if number == 4:
            process.send_signal(signal.SIGKILL)
            process.wait()
        return good(body, number)

    server.script = script
    tools = pathlib.Path(make_questions.__file__).parent
    library = tools.parent
    process = subprocess.Popen(
        [
            sys.executable, "-c", KILLED, str(pathlib.Path(__file__).with_name("conftest.py")),
            f"--data={dataset}", f"--output={make.output}", f"--endpoint={server.url}",
            "--model=llama", "--parallel=1",
        ],
        env=os.environ | {"PYTHONPATH": f"{tools}:{library}:{library / 'kernels'}"},
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.wait(60) == -signal.SIGKILL, process.stderr.read().decode()
    process.stderr.close()
    assert not make.output.exists()
    assert len(rows(make.journal)) == 4
    # Half a line, as if it had been killed while it wrote.
    make.journal.write_bytes(make.journal.read_bytes() + b'{"key": "12')
    server.script = good
    code, told, err = make()
    assert code == 0, err
    assert make.output.read_bytes() == whole
    assert (told["cached"], told["asked"]) == (4, REQUESTS - 4)
    asked = contents(server)
    assert not set(asked[:4]) & set(asked[4:])  # what was answered is not asked again


def test_ctrl_c_keeps_what_was_under_way(make, server, monkeypatch):
    good, waits = server.script, threading.Event()
    log = types.SimpleNamespace(warning=lambda text: waits.set())
    monkeypatch.setattr(run, "_log", log)

    def script(body, number):
        if number == 2:
            os.kill(os.getpid(), signal.SIGINT)
            assert waits.wait(10)
            return BAD  # for which it would be asked again
        return good(body, number)

    server.script = script
    code, told, err = make("--parallel=1")
    assert (code, told) == (130, None)
    assert f"What was answered is in {make.journal}" in err
    assert not make.output.exists()
    assert len(rows(make.journal)) == len(server.seen) == 3  # the third was waited for
    assert make()[1]["asked"] == REQUESTS - 3 + 1


def test_max_cost(make, server):
    # 20 tokens out an answer, at most 25, at a price of 1 each.
    arguments = ("--price-out=1000000", "--max-cost=100", "--parameter=max_tokens=25")
    code, told, err = make(*arguments)
    assert (code, told["complete"], told["asked"], told["cost"]) == (1, False, 4, 80)
    assert "--max-cost is reached with 5 requests left" in err
    assert not make.output.exists()
    assert make(*arguments)[1]["cost"] == 80
    code, told, _ = make(*arguments)
    assert (code, told["asked"], told["cost_of_cached"]) == (0, 1, 160)
    assert len(server.seen) == REQUESTS


def test_an_endpoint_that_is_down(make, server):
    server.answers((503, {"error": {"message": "loading"}}, {}))
    code, told, err = make("--parallel=1", "--retries=0")
    assert (code, told) == (2, None)
    assert "left 5 of 9 requests without an answer (status 503: loading)" in err
    assert len(server.seen) == 5  # then it is given up
    assert not make.output.exists()


def test_one_request_without_an_answer(make, server):
    good = server.script
    server.script = lambda body, number: None if number == 3 else good(body, number)
    code, _, err = make("--parallel=1", "--retries=0")
    assert code == 2
    assert "left 1 of 9 requests" in err
    assert not make.output.exists()
    code, told, _ = make()
    assert (code, told["asked"], told["pairs"]) == (0, 1, ROWS)
