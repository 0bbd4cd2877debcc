"""Checkpoints of a training run, through orbax: asynchronous, the latest and the best are kept.

Only what trains is saved (with adapters: the adapters), with the optimizer's state, the step, the
loss scale and where the data stands; with validation its figures. The frozen base is referenced by
path and content hash, not copied.
"""

import contextlib
import dataclasses
import logging
import math
import pathlib
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp

from medjax.checkpoints.adapters import Base
from medjax.errors import UserError

policies = ocp.checkpoint_managers
_STEP = "step"  # among a checkpoint's figures, to tell which of equals was first


class Checkpoints:
    """The checkpoints in one folder, a subfolder a step."""

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        base: Base | None = None,
        keep_latest: int = 1,
        keep_best: int = 1,
        metric: str = "loss",
        lower: bool = True,
    ):
        """Opens or creates the folder.

        Args:
          base: the weights beside those that train, with their hash; None if all train.
          metric: the figure of validation by which checkpoints are good; the earliest of equals is
            the best.
          lower: whether less of it is better.

        Raises:
          UserError: what the folder says of its checkpoints is damaged.
        """
        self._folder = pathlib.Path(folder).absolute()
        self._base, self._metric, self._lower = base, metric, lower
        best = policies.BestN(
            get_metric_fn=self._goodness,  # type: ignore[arg-type]  # whatever sorts
            n=keep_best,
            keep_checkpoints_without_metrics=False,
        )
        keep = (
            [policies.LatestN(keep_latest), best] if keep_best else [policies.LatestN(keep_latest)]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(keep),
            best_fn=self._goodness,  # type: ignore[arg-type]
            best_mode="max",
            cleanup_tmp_directories=True,
        )
        try:
            self._manager = ocp.CheckpointManager(
                self._folder, options=options, item_names=("state", "data")
            )
        except ValueError as error:  # JSON or UTF-8 that is none
            raise UserError(
                f"checkpoints {self._folder} cannot be opened: a file there is damaged. Delete "
                f"the folder of the damaged step, or choose another workdir. ({_short(error)})"
            ) from error

    def _goodness(self, metrics: Mapping[str, float]) -> tuple[float, float]:
        """By which checkpoints sort, the best last; those without the metric come first."""
        value = metrics.get(self._metric, math.nan)
        good = -value if self._lower else value
        return -math.inf if math.isnan(good) else good, -metrics.get(_STEP, 0)

    def save(
        self, step: int, state: Any, data: dict, figures: Mapping[str, float] | None = None
    ) -> None:
        """Saves in the background; returns once `state` may be changed.

        Args:
          data: where the data stands, and whatever else JSON can say.
          figures: of the validation at this step; None if there was none.
        """
        if step in self._manager.all_steps():
            return
        base = None if self._base is None else dataclasses.asdict(self._base)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data | {"base": base})
            ),
            metrics=None if figures is None else {**figures, _STEP: step},
        )

    def latest(self) -> int | None:
        """The last step that was saved whole, or None."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """The step of the best validation by the metric, or None if none told it."""
        step = self._manager.best_step()
        metrics = None if step is None else self._manager.metrics(step)
        return step if metrics and math.isfinite(metrics.get(self._metric, math.nan)) else None

    def restore(self, step: int, like: Any) -> tuple[Any, dict]:
        """The state and data position saved at `step`.

        Args:
          like: a state of the same structure, real or abstract, whose shapes, dtypes and layouts
            the result has.

        Raises:
          UserError: the checkpoint is damaged, of another model, or beside another base.
        """
        data = self._read(step, "data", ocp.args.JsonRestore())
        self._check_base(step, data.pop("base", None))
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return self._read(step, "state", ocp.args.StandardRestore(abstract)), data

    def _check_base(self, step: int, saved: dict | None) -> None:
        ours = self._base
        if ours is not None and saved is not None and saved["sha256"] != ours.sha256:
            raise UserError(
                f"checkpoint {self._folder / str(step)} was trained beside {saved['path']} (sha256 "
                f"{saved['sha256']:.12}...), but {ours.path} holds other weights now (sha256 "
                f"{ours.sha256:.12}...). Put the first ones back to go on, or choose another "
                "workdir"
            )

    def _read(self, step: int, item: str, how: ocp.args.CheckpointArgs) -> Any:
        try:
            with _abandoned_reads_are_silent():
                return self._manager.restore(step, args=ocp.args.Composite(**{item: how}))[item]
        except Exception as error:  # orbax and tensorstore raise many types for damaged files
            raise UserError(
                f"checkpoint {self._folder / str(step)} cannot be restored: it is damaged or of "
                f"another model. Delete that folder to go on from an earlier one, or choose "
                f"another workdir. ({_short(error)})"
            ) from error

    def wait(self) -> None:
        """Returns when everything is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and ends the background threads."""
        self._manager.close()


@contextlib.contextmanager
def _abandoned_reads_are_silent() -> Iterator[None]:
    """When one read fails, orbax abandons the others; each would print a traceback of its own.

    Some do so through the interpreter, others through asyncio's log or a warning. They end later,
    in other threads, so that after a failure the filters stay.
    """
    before, log = sys.unraisablehook, logging.getLogger("asyncio")

    def hook(unraisable: Any) -> None:
        told = ("Event loop is closed", "Encountered error while reading array")
        if not str(unraisable.exc_value).startswith(told):
            before(unraisable)

    sys.unraisablehook = hook
    log.addFilter(_was_retrieved)
    try:
        yield
    except BaseException:
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        raise
    sys.unraisablehook = before
    log.removeFilter(_was_retrieved)


def _was_retrieved(record: logging.LogRecord) -> bool:
    return "exception was never retrieved" not in record.getMessage()


def _short(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first[:300]}"
