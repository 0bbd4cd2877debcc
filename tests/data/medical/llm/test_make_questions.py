"""The command, against a real server on this machine: what it asks, pays, keeps and writes."""

import base64
import io
import json
import os
import sys
import threading
import types

import numpy as np
import pytest
from PIL import Image

from medjax.data.medical import conditioning
from medjax.data.medical.conditioning.step import Report

from .conftest import BAD, KEY, REQUESTS, ROWS, completion, contents, pairs_about, rows


def test_a_table(make, server):
    code, told, err = make()
    assert code == 0, err
    table = rows(make.output)
    assert len(table) == ROWS
    images = [row["image_id"] for row in table]
    assert images == sorted(images)
    about = {"image_id": "I0", "case_id": "C1", "split": "Train", "language": "en"}
    about |= {"model": "llama", "task": "findings"}
    first = {"question": "Is bright mass shown?", "answer": "yes", "answer_type": "closed"}
    caption, case = told["prompts"]
    assert table[0] == about | first | {
        "mode": "pre_training", "source": "caption", "prompt": caption,
    }  # fmt: skip
    # The case's first question is the caption's, and is not asked twice.
    assert table[2] == about | {
        "question": "What is seen, diagnosis?", "answer": "bright mass", "answer_type": "open",
        "mode": "alignment", "source": "case", "prompt": case,
    }  # fmt: skip
    assert {row["split"] for row in table} == {"Train", "Valid", "Test"}
    # Two images of which the same is known share their requests, and have pairs of their own.
    assert len(server.seen) == len(set(contents(server))) == REQUESTS
    of = [[row["question"] for row in table if row["image_id"] == name] for name in ("I1", "I2")]
    assert of[0] == of[1]
    assert told["not_asked"] == {"caption: no caption": 1}
    assert told["images"] == 6
    assert (told["asked"], told["tokens_in"], told["tokens_out"]) == (REQUESTS, 900, 180)
    assert (told["complete"], told["pairs"], told["failed"]) == (True, ROWS, {})
    assert "127.0.0.1 is sent, in 9 requests: caption, diagnosis, " in err
    assert "71" not in "".join(contents(server))  # an age is no prompt's


def test_a_second_run_costs_nothing_and_needs_no_network(make, server):
    make()
    before = make.output.read_bytes()
    make.output.unlink()
    server.close()
    code, told, err = make("--price-in=1", "--price-out=1", endpoint="")
    assert code == 0, err
    assert make.output.read_bytes() == before
    assert (told["asked"], told["cached"], told["cost"]) == (0, REQUESTS, 0)
    assert told["cost_of_cached"] == pytest.approx(1080e-6)


def test_several_at_once(make, server):
    together = threading.Barrier(3)

    def script(body, number):
        if number < 3:
            together.wait(10)
        return completion(pairs_about(body))

    server.script = script
    assert make("--parallel=3")[0] == 0
    one = make.output.read_bytes()
    make.journal.unlink()
    assert make("--parallel=1")[0] == 0
    assert make.output.read_bytes() == one


def test_a_bad_answer_is_asked_again_with_what_was_wrong(make, server):
    good = server.script
    server.script = lambda body, number: BAD if number == 0 else good(body, number)
    code, told, _ = make("--parallel=1", "--limit=1")
    assert (code, told["asked"], told["requests"], told["failed"]) == (0, 3, 2, {})
    first, second = (body["messages"] for _, body in server.seen[:2])
    assert second[:2] == first
    assert second[2] == {"role": "assistant", "content": "I can't."}
    assert second[3]["content"].startswith("The answer is not JSON")
    assert len(rows(make.journal)) == 3


def test_what_stays_bad_is_told_of_and_no_part_of_it_kept(make, server):
    def script(body, number):
        text = pairs_about(body)
        if "round node" in text:
            text = text.replace('"findings"}]', '"history"}]')  # the second pair alone is wrong
        return completion(text)

    server.script = script
    code, told, err = make("--attempts=2")
    assert (code, told["failed"]) == (0, {"not of the schema": 2})
    assert told["asked"] == REQUESTS + 2
    assert err.count("Failed after 2 attempts: drawn.json: I5: ") == 2
    assert {row["image_id"] for row in rows(make.output)} == {"I0", "I1", "I2", "I3", "I4"}
    # More attempts go on where these ended.
    server.script = lambda body, number: completion(pairs_about(body))
    code, told, _ = make("--attempts=3")
    assert (code, told["failed"], told["asked"], told["pairs"]) == (0, {}, 2, ROWS)


def test_no_pair_at_all(make, server):
    server.answers(completion('{"pairs": []}'))
    code, told, err = make()
    assert (code, told) == (2, None)
    assert "llama gave no pair that can be used" in err
    assert not make.output.exists()


def test_the_key_is_nowhere(make, server, monkeypatch):
    monkeypatch.setenv("DRAWN_KEY", KEY)
    good = server.script
    wrong = (401, {"error": {"message": f"{KEY} is no longer valid"}}, {})
    server.script = lambda body, number: wrong if number == 3 else good(body, number)
    code, _, failed = make("--parallel=1", "--key-env=DRAWN_KEY")
    assert code == 2
    assert "*** is no longer valid" in failed
    code, told, err = make("--key-env=DRAWN_KEY")
    assert code == 0
    assert {headers["Authorization"] for headers, _ in server.seen} == {f"Bearer {KEY}"}
    written = make.journal.read_text() + make.output.read_text() + json.dumps(told)
    assert KEY not in written + err + failed
    assert sorted(os.listdir(make.output.parent)) == [make.output.name, make.journal.name]


def test_no_key_no_authority_of_others(make, server):
    make()
    assert {headers["Authorization"] for headers, _ in server.seen} == {"Bearer none"}


FAR = "https://8.8.8.8/v1"  # never reached


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "8.8.8.8 is not in this network"),
        (("--yes",), "OPENAI_API_KEY holds no key"),
        (("--yes", "--key-env=NO_SUCH_KEY"), "NO_SUCH_KEY holds no key"),
    ],
)
def test_nothing_leaves_the_house_unasked(make, arguments, said):
    code, _, err = make(*arguments, endpoint=FAR)
    assert code == 2
    assert said in err
    assert "8.8.8.8 is sent, in 9 requests: caption, diagnosis, " in err
    assert "no images; nothing else." in err


def test_dry_run(make, server, tmp_path):
    code, told, err = make("--dry-run", "--price-out=100", endpoint=FAR)
    assert code == 0
    forecast = told["forecast"]
    assert forecast["requests"] == REQUESTS
    assert 200 * REQUESTS < forecast["tokens_in"] < 2000 * REQUESTS
    assert forecast["tokens_out"] == REQUESTS * 6 * 45
    assert forecast["cost"] == pytest.approx(forecast["tokens_out"] / 1e4)
    assert forecast["cost_at_most"] == pytest.approx(REQUESTS * 3 * 1500 / 1e4)
    assert "Caption: bright mass" in err
    assert "8.8.8.8 is sent" in err
    assert not server.seen
    assert not make.output.parent.exists()
    # Once there are answers, theirs is the length that is expected.
    make("--limit=1")
    forecast = make("--dry-run")[1]["forecast"]
    assert (forecast["requests"], forecast["tokens_out"]) == (REQUESTS - 2, (REQUESTS - 2) * 20)


def test_images_are_sent_without_what_is_hidden(make, server, monkeypatch):
    asked = []

    def step(records, settings):
        asked.append((len(records), settings.overlays))
        return list(records), Report("overlays", "", warnings=("LOOK AT I3",))

    overlays = types.SimpleNamespace(step=step)
    monkeypatch.setitem(sys.modules, f"{conditioning.__name__}.overlays", overlays)
    monkeypatch.setattr(conditioning, "overlays", overlays, raising=False)
    code, _, err = make("--images", "--prompt=caption", "--limit=3", "--parallel=1")
    assert code == 0, err
    assert asked == [(6, "mask")]  # what images have in common is found in all of them
    assert "LOOK AT I3" in err
    assert "images, burned-in text: mask; nothing else." in err
    assert len(server.seen) == 3  # equal captions, but different images
    for number, (_, body) in enumerate(server.seen):
        text, image = body["messages"][1]["content"]
        assert "Caption: " in text["text"]
        kind, data = image["image_url"]["url"].split(",")
        assert kind == "data:image/png;base64"
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        assert pixels.shape == (5, 4, 3)
        assert not pixels[:2].any()
        assert (pixels[2:] == 200 + number).all()


def test_ones_own_prompt_and_parameters(make, server, tmp_path):
    file = tmp_path / "own.md"
    file.write_text(
        "---\nsource: caption\nmode: alignment\ntasks: findings\n---\n# System\n# User\n"
        "In {language} at most {pairs}.\nCaption: {caption}\n"
    )
    code, told, err = make(
        f"--prompt={file}", "--split=test", "--language=it", "--pairs=2",
        "--parameter=temperature=null", '--parameter=stop=["#"]', "--parameter=effort=low",
    )  # fmt: skip
    assert code == 0, err
    ((_, body),) = server.seen
    (message,) = body["messages"]  # no system's part
    assert message["content"].startswith("In it at most 2.\nCaption: round node\n\nAnswer with")
    assert "temperature" not in body
    assert (body["stop"], body["effort"], body["max_tokens"]) == (["#"], "low", 1500)
    row = rows(make.output)[0]
    assert (row["language"], row["mode"], row["split"]) == ("it", "alignment", "Test")
    assert row["prompt"] == told["prompts"][0]
    # Another parameter is another request.
    assert make(f"--prompt={file}", "--split=test", "--language=it", "--pairs=2")[1]["asked"] == 1


def test_answers_without_a_count(make, server):
    server.script = lambda body, number: completion(pairs_about(body), usage=None)
    code, told, err = make()
    assert (code, told["tokens_estimated_for"]) == (0, REQUESTS)
    assert told["tokens_in"] == told["forecast"]["tokens_in"]
    assert "9 answers came without a count" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--output=pairs.csv",), "a table of questions is a .jsonl file"),
        (("--data=medpix2",), "write NAME=FOLDER"),
        (("--data=medpix3=/",), "names are medpix2, "),
        (("--data=medpix2=/no/such",), "there is no folder /no/such"),
        (("--max-cost=1",), "--max-cost needs to know prices"),
        (("--endpoint=http://me:pw@x/v1",), "keys are read from the environment"),
        (("--parameter=model=x",), "none of model, messages"),
        (("--parameter=max_tokens=many",), "write a number of tokens"),
        (("--timeout=0",), "--timeout must be above 0"),
        (("--prompt=nowhere.md",), "nowhere.md can't be read"),
        ((f"--key-env={KEY}",), "--key-env is no name"),
        (("--prompt=caption", "--limit=1", "--split=test", "--endpoint="), "with --endpoint"),
    ],
)
def test_what_is_wrong_with_arguments(make, server, arguments, said):
    code, told, err = make(*arguments)
    assert (code, told) == (2, None)
    assert said in err
    assert KEY not in err
    assert not server.seen
    assert not make.output.exists()


def test_a_key_on_the_command_line_is_refused(make):
    code, _, err = make("--key=" + KEY)
    assert code == 2
    assert "unrecognized arguments" in err


@pytest.mark.parametrize("package", ["openai", "jsonschema"])
def test_a_package_that_is_missing(make, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    code, _, err = make()
    assert code == 2
    assert f"needs {package}: pip install -e '.[llm]'" in err


def test_nothing_to_ask(make, tmp_path):
    file = tmp_path / "own.md"
    head = "---\nsource: case\nmode: alignment\nrequires: history\ntasks: x\n---\n# System\n"
    file.write_text(head + "# User\n{history}\n")
    code, _, err = make(f"--prompt={file}")
    assert code == 2
    assert "nothing to ask about 6 images (6 x own: no history)" in err
