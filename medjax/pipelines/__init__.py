"""A whole run of a family of models: data, stages, evaluation, export; what is done is skipped."""

import importlib
import pathlib
from types import ModuleType

import jax
from ml_collections import ConfigDict

from medjax import config as config_lib
from medjax import workdir as workdir_lib
from medjax.cli import say
from medjax.pipelines.libraries import prepare_libraries
from medjax.scaling import kernels
from medjax.training.loop import Interrupted
from medjax.workdir import Workdir

__all__ = ["Interrupted", "evaluate", "run"]


def run(config: ConfigDict, path: str | pathlib.Path) -> dict:
    """Trains all stages, evaluates the last on the test data, and exports it.

    Nothing is written before everything given has been checked.

    Returns:
      The results as `results.json` has them, and where everything lies.

    Raises:
      Interrupted: a signal asked to stop.
      UserError: something given cannot be used.
    """
    prepare_libraries()
    with kernels.using(config):
        workdir = workdir_lib.check(path, config)
        family = _of(config)
        if all(workdir.model(name).exists() for name in config_lib.stage_names(config)):
            say(f"workdir {workdir.path}: trained already")
            workdir_lib.create(workdir, config)
        else:
            family.train(config, workdir)
        outcome = {"workdir": str(workdir.path)}
        return outcome | (family.finish(config, workdir) if jax.process_index() == 0 else {})


def evaluate(config: ConfigDict, workdir: Workdir, part: str = "test") -> dict:
    """Evaluates a trained run on a part of its data; writes into its folder.

    Raises:
      UserError: a stage is not trained yet, or there is no such data.
    """
    prepare_libraries()
    with kernels.using(config):
        return _of(config).evaluate(config, workdir, part)


def _of(config: ConfigDict) -> ModuleType:
    """The family's own; imported when it is wanted, since each needs libraries of its own."""
    return importlib.import_module(f"medjax.pipelines.{config.family}.run")
