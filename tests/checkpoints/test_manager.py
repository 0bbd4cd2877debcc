"""Checkpoints of a run: whole, in the background, the latest and the best, or one clear error."""

import asyncio
import gc
import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.checkpoints.adapters import Base
from medjax.checkpoints.manager import Checkpoints
from medjax.errors import UserError


def state(value: float, width: int = 4) -> dict:
    return {"lora_a": jnp.full((3, width), float(value)), "count": jnp.int32(value)}


@pytest.fixture
def manager(tmp_path):
    """Opens the checkpoints in the test's folder; all are closed at the end."""
    opened = []

    def open_(**kwargs):
        opened.append(Checkpoints(tmp_path / "checkpoints", **kwargs))
        return opened[-1]

    yield open_
    for checkpoints in opened:
        checkpoints.close()


def steps(folder: pathlib.Path) -> list[int]:
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


def test_what_is_saved_comes_back(manager):
    checkpoints = manager()
    assert checkpoints.latest() is None
    assert checkpoints.best() is None
    checkpoints.save(7, state(3.5), {"next_example": 28, "order": {"a": [1]}})
    checkpoints.wait()
    again = manager()
    assert again.latest() == 7
    restored, data = again.restore(7, state(0))
    assert data == {"next_example": 28, "order": {"a": [1]}}
    assert jax.tree.map(lambda x: (x.shape, x.dtype), restored) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state(0)
    )
    np.testing.assert_array_equal(restored["lora_a"], 3.5)
    assert int(restored["count"]) == 3


def test_saving_goes_on_in_the_background_with_the_state_of_then(manager):
    checkpoints = manager()
    donate = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    current = state(1)
    checkpoints.save(1, current, {})
    current = donate(current)  # as the next step of training does
    checkpoints.wait()
    restored, _ = checkpoints.restore(1, current)
    np.testing.assert_array_equal(restored["lora_a"], 1.0)
    np.testing.assert_array_equal(current["lora_a"], 2.0)


@pytest.mark.parametrize(
    ("latest", "best", "kept"), [(1, 1, [2, 5]), (2, 0, [4, 5]), (1, 2, [2, 3, 5])]
)
def test_latest_and_best_are_kept(manager, tmp_path, latest, best, kept):
    checkpoints = manager(keep_latest=latest, keep_best=best)
    for step, loss in enumerate([3.0, 0.5, 1.0, 2.0, 4.0], start=1):
        checkpoints.save(step, state(step), {}, {"loss": loss})
    checkpoints.wait()
    assert steps(tmp_path) == kept
    assert checkpoints.latest() == 5
    if best:
        assert checkpoints.best() == 2
        assert manager(keep_latest=latest, keep_best=best).best() == 2


def test_the_best_by_any_figure(manager, tmp_path):
    """The earliest of equals; what has no such figure, or none that is a number, is not best."""
    scores = [0.2, 0.5, float("nan"), 0.5, 0.1]
    checkpoints = manager(metric="score", lower=False)
    for step, score in enumerate(scores, start=1):
        checkpoints.save(step, state(step), {}, {"loss": 5.0 - step, "score": score})
    checkpoints.wait()
    assert checkpoints.best() == 2
    assert steps(tmp_path) == [2, 5]
    assert manager(metric="score", lower=True).best() == 5
    assert manager(metric="dice", lower=False).best() is None


def test_checkpoints_of_before_figures_had_names(manager, tmp_path):
    """They hold {"loss": ...} alone, as older runs have written it."""
    checkpoints = manager(keep_latest=2, keep_best=2)
    for step, loss in enumerate([0.5, 1.0], start=1):
        checkpoints.save(step, state(step), {"next_example": 4 * step}, {"loss": loss})
    checkpoints.wait()
    for path in (tmp_path / "checkpoints").glob("*/metrics/metrics"):
        path.write_text(json.dumps({"loss": json.loads(path.read_text())["loss"]}))
    again = manager(keep_latest=1, keep_best=1)
    assert again.best() == 1
    restored, data = again.restore(1, state(0))
    np.testing.assert_array_equal(restored["lora_a"], 1.0)
    assert data == {"next_example": 4}
    again.save(3, state(3), {}, {"loss": 2.0, "score": 0.1})
    again.wait()
    assert steps(tmp_path) == [1, 3]


def test_without_validation_only_the_latest(manager, tmp_path):
    checkpoints = manager()
    for step in (1, 2, 3):
        checkpoints.save(step, state(step), {})
    checkpoints.wait()
    assert steps(tmp_path) == [3]


def test_one_step_is_saved_once(manager):
    checkpoints = manager()
    checkpoints.save(1, state(1), {}, {"loss": 0.5})
    checkpoints.save(1, state(2), {})
    checkpoints.wait()
    restored, _ = checkpoints.restore(1, state(0))
    np.testing.assert_array_equal(restored["lora_a"], 1.0)


def test_what_a_kill_left_behind_is_no_checkpoint(manager, tmp_path):
    checkpoints = manager()
    checkpoints.save(1, state(1), {})
    checkpoints.wait()
    half = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    (half / "state").mkdir(parents=True)
    (half / "state" / "manifest.ocdbt").write_bytes(b"")
    again = manager()
    assert again.latest() == 1
    again.save(2, state(2), {})
    again.wait()
    assert again.latest() == 2


DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "garbled": lambda path: path.write_bytes(bytes(255 - byte for byte in path.read_bytes())),
    "deleted": pathlib.Path.unlink,
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint_is_one_clear_error(tmp_path, how):
    """Whichever file is damaged: it either does not matter, or is told of."""
    told = 0
    for index in itertools.count():
        folder = tmp_path / str(index)
        checkpoints = Checkpoints(folder)
        checkpoints.save(1, state(1), {"next_example": 4}, {"loss": 0.5})
        checkpoints.close()
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if index >= len(files):  # orbax does not always write as many
            break
        DAMAGE[how](files[index])
        message = _read(folder)
        if message is not None:
            assert str(folder) in message
            assert "damaged" in message
            assert "\n" not in message
            told += 1
    assert told >= 3  # the data's position, the arrays' description, the arrays


def test_reads_that_were_abandoned_say_nothing(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state(1), {})
    checkpoints.wait()
    (tmp_path / "1" / "state" / "manifest.ocdbt").write_bytes(b"")
    with pytest.raises(UserError, match="damaged"):
        checkpoints.restore(1, state(0))
    checkpoints.close()
    # One more, as whether orbax leaves any is a matter of threads.
    loop = asyncio.new_event_loop()
    loop.create_future().set_exception(ValueError("OUT_OF_RANGE: Error reading"))
    loop.close()
    gc.collect()
    assert "never retrieved" not in caplog.text


def _read(folder) -> str | None:
    """Restores the latest checkpoint, if there is one, or returns what the error says."""
    try:
        checkpoints = Checkpoints(folder)
        step = checkpoints.latest()
        if step is None:
            return None
        restored, data = checkpoints.restore(step, state(0))
    except UserError as error:
        return str(error)
    np.testing.assert_array_equal(restored["lora_a"], 1.0)
    assert data == {"next_example": 4}
    return None


def test_another_base(manager):
    checkpoints = manager(base=Base("/weights/a.npz", "1" * 64))
    checkpoints.save(1, state(1), {"next_example": 4})
    checkpoints.wait()
    with pytest.raises(UserError, match=r"beside /weights/a\.npz .*1111.*b\.npz holds other"):
        manager(base=Base("/weights/b.npz", "2" * 64)).restore(1, state(0, width=5))
    # Moved, they are the same weights.
    _, data = manager(base=Base("/weights/b.npz", "1" * 64)).restore(1, state(0))
    assert data == {"next_example": 4}


def test_another_models_checkpoint(manager):
    checkpoints = manager()
    checkpoints.save(1, state(1), {})
    checkpoints.wait()
    for like in (state(0, width=5), {"lora_a": state(0)["lora_a"]}, state(0) | {"b": jnp.ones(2)}):
        with pytest.raises(UserError, match="checkpoints/1 cannot be restored"):
            checkpoints.restore(1, like)
