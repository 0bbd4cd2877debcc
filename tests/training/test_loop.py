"""The loop: what is written and saved when, how it goes on, and when it stops."""

import itertools
import json
import os
import shutil
import signal
import struct
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from medjax.checkpoints.manager import Checkpoints
from medjax.data.batching import Batch
from medjax.errors import UserError
from medjax.training import loss_scaling
from medjax.training.early_stopping import EarlyStopping
from medjax.training.loop import Interrupted, Schedule, train

BATCH = 2


class State(NamedTuple):
    step: jax.Array
    seen: jax.Array  # sum of the numbers of all batches


class FakeTrainer:
    """Adds up the batches' numbers; what it reports, or validates, at a step can be set."""

    def __init__(self, reports=None, on_step=None, validated=None):
        self.state = State(jnp.int32(0), jnp.float32(0))
        self.reports, self.validated = reports or {}, validated or {}
        self.on_step = on_step

    def step(self, arrays, source="") -> dict[str, float]:
        step = int(self.state.step) + 1
        self.state = State(jnp.int32(step), self.state.seen + arrays["number"].sum())
        if self.on_step:
            self.on_step(step)
        values = dict(loss=1.0 / step, accuracy=0.5, tokens=3.0, grad_norm=2.0, skipped=0.0)
        return values | self.reports.get(step, {})

    def evaluate(self, batches) -> dict[str, float]:
        step = int(self.state.step)
        figures = {"loss": abs(step - 4.0) + sum(1 for _ in batches), "accuracy": 0.25}
        return figures | self.validated.get(step, {})

    def model_with(self):
        return self.state


class FakeData:
    """Batches of consecutive numbers."""

    def __init__(self):
        self.next = 0
        self.closed = False

    def __next__(self) -> Batch:
        numbers = np.arange(self.next, self.next + BATCH)
        self.next += BATCH
        ids = tuple(f"example {n}" for n in numbers)
        return Batch({"number": numbers}, ids, numbers % 3 == 0, np.ones(BATCH, bool))

    @property
    def epoch(self):
        return self.next / 8

    def get_state(self):
        return {"next_example": self.next}

    def set_state(self, state):
        self.next = state["next_example"]

    def close(self):
        self.closed = True


@pytest.fixture
def run(tmp_path):
    """Trains with a fake trainer in the test's folder; returns trainer, data and error."""

    def run(
        trainer=None, steps=10, log=2, evaluate=0, checkpoint=0, raises=None, stop=None, **more
    ):
        trainer, data = trainer or FakeTrainer(), FakeData()
        stopping = EarlyStopping(**(stop or {}))
        checkpoints = Checkpoints(
            tmp_path / "checkpoints", keep_latest=2, keep_best=1,
            metric=stopping.metric, lower=stopping.lower,
        )  # fmt: skip
        schedule = Schedule(steps, log, evaluate, checkpoint)
        validation = (lambda: iter(())) if evaluate else None
        keywords = dict(checkpoints=checkpoints, learning_rate=lambda step: 0.1 * step)
        keywords |= dict(stopping=stopping, **more)
        error = None
        try:
            train(trainer, data, schedule, tmp_path, validation=validation, **keywords)
        except (UserError, Interrupted) as caught:
            error = caught
        finally:
            checkpoints.close()
        if error is not None and not isinstance(error, raises or ()):
            raise error
        assert raises is None or error is not None
        return trainer, data, error

    return run


@pytest.fixture
def saved(tmp_path):
    """Steps of which there is a checkpoint."""
    return lambda: sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())


@pytest.fixture
def lines(tmp_path):
    def read():
        text = (tmp_path / "metrics.jsonl").read_text()
        # NaN and Infinity are no JSON.
        return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]

    return read


def test_metrics_are_means_since_the_last_line(run, lines):
    _, data, _ = run(steps=5, log=2)
    assert [line["step"] for line in lines()] == [2, 4, 5]
    wanted = [(1 + 1 / 2) / 2, (1 / 3 + 1 / 4) / 2, 1 / 5]
    np.testing.assert_allclose([line["loss"] for line in lines()], wanted, rtol=1e-6)
    assert [line["tokens"] for line in lines()] == [6, 6, 3]
    # The rate that the step used: schedules count from 0.
    np.testing.assert_allclose([line["learning_rate"] for line in lines()], [0.1, 0.3, 0.4])
    # Numbers 0 and 3; 6; 9.
    assert [line.get("truncated_examples") for line in lines()] == [2, 1, 1]
    assert all(line["examples_per_second"] > 0 for line in lines())
    assert [line["epoch"] for line in lines()] == [2 * 2 / 8, 4 * 2 / 8, 5 * 2 / 8]
    assert data.closed


def test_one_line_a_step_with_validation(run, lines):
    run(steps=6, log=2, evaluate=3)
    assert [line["step"] for line in lines()] == [2, 3, 4, 6]
    assert [line.get("validation/loss") for line in lines()] == [None, 1, None, 2]
    assert "loss" in lines()[3]
    assert "loss" not in lines()[1]


def test_what_is_said(run, capsys):
    """A line for what is written, and one for each validation, above the bar."""
    run(steps=6, log=2, evaluate=3)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train step ")]
    assert [line.split(",")[0] for line in said] == [
        "train step 2: loss 0.75",
        "train step 3: validation loss 1",
        "train step 4: loss 0.2917",
        "train step 6: loss 0.1833",
        "train step 6: validation loss 2",
    ]
    assert ", accuracy 0.5, grad_norm 2, learning_rate 0.1, examples_per_second " in said[0]
    assert said[0].endswith(", truncated_examples 2")


def test_events_say_the_same(run, lines, tmp_path):
    run(steps=6, log=2, evaluate=3)
    (path,) = tmp_path.glob("events.out.tfevents.*")
    content, found = path.read_bytes(), {}
    while content:  # TFRecord: length, its checksum, an event, its checksum
        (length,) = struct.unpack("<Q", content[:8])
        event = event_pb2.Event.FromString(content[12 : 12 + length])
        for value in event.summary.value:
            found[event.step, value.tag] = value.simple_value
        content = content[16 + length :]
    wanted = {
        (line["step"], name): value
        for line in lines()
        for name, value in line.items()
        if name != "step"
    }
    assert found == pytest.approx(wanted, rel=1e-6)


def test_latest_and_best_are_kept(run, saved):
    # Validation is lowest at step 4.
    run(steps=10, evaluate=2)
    assert saved() == [4, 8, 10]


def test_the_last_step_is_always_saved(run, saved):
    run(steps=5)
    assert saved() == [5]


def test_a_finished_training_does_nothing(run, saved, lines):
    run(steps=4)
    before = lines()
    trainer, data, _ = run(steps=4)
    assert (data.next, lines(), saved()) == (8, before, [4])
    assert int(trainer.state.step) == 4


def test_an_interrupted_run_goes_on(run, saved, lines, tmp_path, capsys):
    whole, _, _ = run(steps=9, checkpoint=3)
    wanted = lines()
    for child in (tmp_path / "checkpoints").iterdir():
        for file in sorted(child.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        child.rmdir()

    class Kill(Exception):
        pass

    def die(step):
        if step == 8:
            raise Kill

    with pytest.raises(Kill):
        run(FakeTrainer(on_step=die), steps=9, checkpoint=3)
    assert max(saved()) == 6
    # A kill may cut a line short.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')
    again, data, _ = run(steps=9, checkpoint=3)
    assert "continuing from step 6" in capsys.readouterr().err
    assert data.next == 9 * BATCH
    assert again.state == whole.state
    steady = ("step", "tokens", "learning_rate")
    assert [[line[k] for k in steady] for line in lines()] == [
        [line[k] for k in steady] for line in wanted
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops(run, saved, number):
    def on_step(step):
        if step == 3:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    _, data, stop = run(FakeTrainer(on_step=on_step), raises=Interrupted)
    assert "stopped at step 3" in str(stop)
    assert saved() == [3]
    assert data.closed
    assert signal.getsignal(number) is before
    trainer, _, _ = run()
    assert float(trainer.state.seen) == sum(range(10 * BATCH))


def test_a_second_signal_acts_at_once(run):
    def on_step(step):
        if step == 3:
            # Raised in this thread: two that come to the process at once may count as one.
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(FakeTrainer(on_step=on_step))


@pytest.mark.parametrize("key", ["loss", "grad_norm"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_stops_with_step_and_examples(run, saved, lines, key, value):
    trainer = FakeTrainer({5: {key: value}})
    _, data, error = run(trainer, checkpoint=1, raises=UserError)
    assert "step 5" in str(error)
    assert str(value) in str(error)
    assert "example 8, example 9." in str(error)
    assert max(saved()) == 4
    assert [line["step"] for line in lines()] == [2, 4]
    assert data.closed


def test_also_at_the_last_step_and_when_told_to_stop(run, saved):
    _, _, error = run(FakeTrainer({10: {"loss": np.nan}}), checkpoint=4, raises=UserError)
    assert "step 10" in str(error)
    assert saved() == [4, 8]

    def on_step(step):
        if step == 9:
            os.kill(os.getpid(), signal.SIGTERM)

    reports = {9: {"grad_norm": np.inf}}
    _, _, error = run(FakeTrainer(reports, on_step), checkpoint=4, raises=UserError)
    assert "step 9" in str(error)
    assert saved() == [4, 8]


def test_skipped_steps_are_counted_and_left_out_of_means(run, lines):
    skipped = {"skipped": 1.0, "grad_norm": np.inf, "loss": np.nan}
    run(FakeTrainer({step: skipped for step in (2, 5, 6)}), steps=6)
    assert [line.get("skipped_steps") for line in lines()] == [1, None, 2]
    assert [line.get("loss") for line in lines()] == pytest.approx([1, (1 / 3 + 1 / 4) / 2, None])
    assert "grad_norm" not in lines()[2]


def test_skipping_does_not_go_on_for_ever(run):
    skipped = {"skipped": 1.0, "grad_norm": np.inf}
    reports = dict(zip(range(4, 100), itertools.repeat(skipped), strict=False))
    _, _, error = run(FakeTrainer(reports), steps=99, log=0, raises=UserError)
    assert f"step {4 + loss_scaling.MAX_SKIPS - 1}." in str(error)


def test_answers_are_told_with_the_losses(run, lines, capsys):
    """What is asked of the model as it then is, is one more figure of the evaluation."""

    def answers(state):
        return {"score": float(state.step) / 10}

    run(steps=6, log=2, evaluate=3, answers=answers)
    assert [line.get("validation/score") for line in lines()] == [None, 0.3, None, 0.6]
    assert "train step 3: validation loss 1, score 0.3, accuracy 0.25" in capsys.readouterr().err


STOP = {"metric": "score", "patience": 3}
SCORES = {2: 0.1, 3: 0.4, 4: 0.2, 5: 0.4, 6: 0.3, 7: 0.9, 8: 0.9}


def validating(on_step=None):
    validated = {step: {"score": score} for step, score in SCORES.items()}
    return FakeTrainer(on_step=on_step, validated={1: {"score": 0.0}} | validated)


def test_training_stops_where_it_has_not_improved(run, saved, lines, capsys):
    trainer, data, _ = run(validating(), steps=8, evaluate=1, stop=STOP)
    assert int(trainer.state.step) == 6
    assert data.closed
    # Step 5 is as good as step 3, which is no improvement, and comes later.
    assert saved() == [3, 5, 6]
    assert lines()[-1]["step"] == 6
    said = capsys.readouterr().err
    assert "step 6: stopped early: validation/score has not improved on 0.4 of step 3 in 3" in said
    # Done is done.
    again, data, _ = run(validating(), steps=8, evaluate=1, stop=STOP)
    assert (int(again.state.step), data.next) == (6, 12)
    assert lines()[-1]["step"] == 6


def test_a_stop_tells_the_losses_since_the_last_line(run, lines):
    run(validating(), steps=8, log=4, evaluate=1, stop=STOP)
    assert [line["step"] for line in lines() if "loss" in line] == [4, 6]
    assert lines()[-1]["loss"] == pytest.approx((1 / 5 + 1 / 6) / 2)


@pytest.mark.parametrize("kill", range(3, 7))
def test_patience_outlives_a_kill(run, saved, lines, tmp_path, kill):
    """Wherever it is killed: what stopped the whole run stops the one that goes on."""
    whole, _, _ = run(validating(), steps=8, evaluate=1, stop=STOP)
    wanted, kept = [line.get("validation/score") for line in lines()], saved()
    shutil.rmtree(tmp_path / "checkpoints")

    class Kill(Exception):
        pass

    def die(step):
        if step == kill:
            raise Kill

    with pytest.raises(Kill):
        run(validating(die), steps=8, evaluate=1, stop=STOP)
    again, _, _ = run(validating(), steps=8, evaluate=1, stop=STOP)
    assert again.state == whole.state
    assert [line.get("validation/score") for line in lines()] == wanted
    assert saved() == kept


def test_an_unknown_metric_is_told_of_at_the_first_evaluation(run):
    trainer, _, error = run(steps=8, evaluate=2, stop={"metric": "dice"}, raises=UserError)
    assert int(trainer.state.step) == 2
    assert "'dice', which validation does not tell; name one of accuracy, loss" in str(error)
