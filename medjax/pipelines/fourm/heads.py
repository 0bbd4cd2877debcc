"""4M trained anew with one and another number of key/value heads, and what that changes.

Everything else is a finished run's: its tokenizers, data, seed and settings.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from medjax import config as config_lib
from medjax import pipelines
from medjax import workdir as workdir_lib
from medjax.cli import say
from medjax.data import setup
from medjax.decoding.fourm.cache_size import (
    abstract_memory,
    cache_size,
    memory_of,
    size_by_formula,
)
from medjax.errors import UserError
from medjax.evaluation.fourm.heads import Ablation, Large, Score, Spread, Variant
from medjax.evaluation.table import Estimate
from medjax.modalities import table as modality_table
from medjax.models import params
from medjax.models.fourm import VARIANTS, variant
from medjax.pipelines import weights
from medjax.pipelines.fourm import model as model_lib
from medjax.pipelines.fourm import timing, trained
from medjax.pipelines.fourm.model import Plan
from medjax.pipelines.fourm.trained import Trained
from medjax.scaling import kernels
from medjax.workdir import Workdir

_LARGE, _LARGE_TOKENS = "fm_xlarge_24e_24d_swiglu_nobias", 256
# A stage without evaluations has one at its end nevertheless.
_AT_THE_END = 10**9


def run(
    path: str | pathlib.Path,
    output: pathlib.Path,
    heads: Sequence[int],
    *,
    steps: int = 0,
    rounds: int = 20,
) -> Ablation:
    """Trains a model for each number of heads, or finds it trained, and compares them.

    Args:
      path: folder of a finished run of family fourm.
      output: where the models' own runs lie, kv<heads> each.
      heads: numbers of key/value heads.
      steps: of each training, if not the run's; the warm-up keeps its share.
      rounds: in which times are taken.

    Raises:
      Interrupted: a signal asked to stop.
      UserError: no such run, not trained, or numbers of heads that its model cannot have.
    """
    configs = variants(path, heads, steps)
    folders = {k: output / f"kv{k}" for k in configs}
    results: dict[int, Mapping[str, Any]] = {}
    for k, config in configs.items():
        say(f"{k} key/value heads: run {len(results) + 1} of {len(configs)}")
        results[k] = pipelines.run(config, folders[k])["results"]
    with kernels.using(next(iter(configs.values()))):
        models = {k: _open(folder) for k, folder in folders.items()}
        tasks = [timing.tasks(*model) for model in models.values()]
        seconds = timing.in_turns(tasks, rounds)
    first, plan = next(iter(models.values()))
    lengths = [scheme.packed_lengths for scheme in plan.schemes.values()]
    context, room = (max(side) for side in zip(*lengths, strict=True))
    found = [
        _variant(folders[k], *models[k], results[k], times, seconds[0], (context, room))
        for k, times in zip(models, seconds, strict=True)
    ]
    config = plan.config
    return Ablation(
        title=f"Key/value heads of 4M: {pathlib.Path(path).name}",
        queries=plan.model.num_heads,
        variants=found,
        timed={key: task.words for key, task in tasks[0].items()},
        context=context,
        room=room,
        itemsize=jnp.dtype(first.model.dtype).itemsize,
        large=_large(),
        about={
            "workdir": str(path), "steps": plan.steps, "seed": config.seed,
            "groups": next(iter(results.values()))["groups"], "rounds": rounds,
            "device": jax.devices()[0].device_kind,
            "versions": {package: version(package) for package in ("jax", "flax", "optax")},
        },
    )  # fmt: skip


def variants(
    path: str | pathlib.Path, heads: Sequence[int], steps: int = 0
) -> dict[int, ConfigDict]:
    """The config of a run of one stage for each number of heads, the most heads first.

    The arguments and errors are those of `run`.
    """
    workdir = Workdir.of(path)
    whole = workdir_lib.read_config(path)
    name, config, tokenizers = trained.find_stage(whole, workdir)
    kinds = [config_lib.stage_config(whole, n).kind for n in config_lib.stage_names(whole)]
    if config.init or kinds.count("fourm") > 1:
        raise UserError(
            f"{path}: {name} may begin with weights, which have their number of heads already; "
            "choose a run with one stage of 4M, from scratch"
        )
    for part in ("validation", "test"):
        if not setup.names_data(config, part):
            raise UserError(f"{path}: data.{part} names no source, by which to tell how good 4M is")
    model = weights.open_result(workdir.model(name)).checkpoint.config
    sizes = VARIANTS[config.model] if isinstance(config.model, str) else config.model.to_dict()
    configs = {}
    for k in sorted(set(heads), reverse=True):
        try:
            dataclasses.replace(model, num_kv_heads=k)
        except UserError as error:
            raise UserError(f"{k} key/value heads: {error}") from error
        own = ConfigDict(config.to_dict())
        own.name = f"{whole.name}_kv{k}"
        with own.ignore_type():
            own.model = ConfigDict({**sizes, "num_kv_heads": k})
        own.tokenizers = ConfigDict({key: str(at.absolute()) for key, at in tokenizers.items()})
        own.wordpiece = str(workdir.wordpiece.absolute()) if workdir.wordpiece.exists() else ""
        own.eval_every = own.eval_every or _AT_THE_END
        own.export.fourm = False  # the official format has no number of key/value heads
        if steps:
            if own.steps:
                own.optimizer.warmup_steps = own.optimizer.warmup_steps * steps // own.steps
            own.steps, own.epochs = steps, 0.0
        configs[k] = config_lib.resolve(own, str(path))
    return configs


def _open(folder: pathlib.Path) -> tuple[Trained, Plan]:
    """A model that is trained, and how it was."""
    found = trained.load(folder)
    config = found.config
    (name,) = config_lib.stage_names(config)
    table = modality_table.with_entries(config.modalities.to_dict())
    return found, model_lib.plan(name, config, table, None, found.wordpiece, {})


def _variant(
    folder: pathlib.Path,
    found: Trained,
    plan: Plan,
    results: Mapping[str, Any],
    seconds: Mapping[str, Sequence[float]],
    first: Mapping[str, Sequence[float]],
    tokens: tuple[int, int],
) -> Variant:
    """Everything of one model; `first`: the seconds of the one with the most heads."""
    ratios = {
        key: [a / b for a, b in zip(times, first[key], strict=True)]
        for key, times in seconds.items()
    }
    return Variant(
        heads=plan.model.kv_heads,
        parameters=params.count(found.model),
        losses=_losses(Workdir.of(folder).stage(plan.name), plan.config.restore_best),
        scores=_scores(results),
        milliseconds={k: Spread.of([1000 * t for t in times]) for k, times in seconds.items()},
        relative={key: Spread.of(values) for key, values in ratios.items()},
        cache=cache_size(memory_of(found.model, *tokens)),
        formula=size_by_formula(plan.model, *tokens, found.model.dtype),
    )


def _losses(folder: pathlib.Path, best: bool) -> dict[str, float]:
    """The validation losses of the weights that a stage ended with."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "validation/loss" in row]
    row = min(rows, key=lambda row: row["validation/loss"]) if best else rows[-1]
    prefix = "validation/"
    return {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(f"{prefix}loss")}


def _scores(results: Mapping[str, Any]) -> dict[str, Score]:
    """The first metric of each direction, which stands for it."""
    scores, system = {}, results["systems"][-1]
    for direction, metrics in results["tasks"].items():
        metric, row = next(iter(metrics.items()))
        told = {k: float("nan") if v is None else v for k, v in row["systems"][system].items()}
        scores[direction] = Score(metric, Estimate(**told))
    return scores


def _large() -> Large:
    """What the original's largest model would hold; nothing of it is made."""
    sizes = {}
    queries = VARIANTS[_LARGE]["num_heads"]
    for k in (2**i for i in reversed(range(queries.bit_length()))):
        config = variant(_LARGE, ("rgb", "caption"), ("caption",), num_kv_heads=k)
        memory = abstract_memory(config, _LARGE_TOKENS, _LARGE_TOKENS, jnp.bfloat16)
        sizes[k] = cache_size(memory)
    return Large(_LARGE, queries, _LARGE_TOKENS, _LARGE_TOKENS, sizes)
