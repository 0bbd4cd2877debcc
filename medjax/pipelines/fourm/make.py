"""Makes any modalities of any others with a run's trained 4M, one after another."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medjax.decoding.fourm.steps import Step, check_all
from medjax.errors import UserError
from medjax.modalities.table import IMAGE
from medjax.pipelines.fourm import trained as trained_lib
from medjax.pipelines.fourm.given import check_part, is_file, read_given
from medjax.pipelines.fourm.made import Made
from medjax.pipelines.fourm.steps import OF_IMAGES
from medjax.pipelines.fourm.trained import Trained
from medjax.pipelines.libraries import prepare_libraries


def make(
    path: str | pathlib.Path,
    given: Mapping[str, str],
    targets: Sequence[str],
    *,
    stage: str | None = None,
    part: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int | None = None,
    num_samples: int = 1,
) -> Made:
    """Makes modalities, each from what was given and what was made before it.

    Args:
      path: workdir of a run.
      given: by modality, what the command line says; see `given.read_given`.
      targets: the modalities to make, in this order. A larger one of the same image after a smaller
        one is super-resolution.
      stage: whose model makes them; the last one's of 4M if None.
      part: `axis`, `slice`, `frame` and `window` of files.
      settings: what differs from the run's `evaluate`, by the names of `steps.SETTINGS`. Weights of
        guidance are of those conditions that a step has; every pass reads the others.
      seed: of all draws; the run's own if None.
      num_samples: results of each; sample i is the same however many there are.

    Raises:
      UserError: no such run, stage or modality, something given that cannot be read or is too long,
        or a step that the model cannot do.
    """
    part, settings = dict(part or {}), dict(settings or {})
    if num_samples < 1:
        raise UserError(f"num_samples {num_samples} must be at least 1")
    if seed is not None and not 0 <= seed < 2**31:
        raise UserError(f"seed {seed} is not in 0 to {2**31 - 1}")
    prepare_libraries()
    trained = trained_lib.load(path, stage)
    steps = _steps(trained, list(given), targets, settings)
    if num_samples > 1 and not any(step.temperature or step.scheme == "roar" for step in steps):
        raise UserError(
            f"all {num_samples} samples would be the same at temperature 0; set --temperature"
        )
    rows, image = _read(trained, given, part)
    seed = trained.config.seed if seed is None else seed
    samples: list[dict[str, Any]] = []
    size = min(num_samples, trained.config.evaluate.batch_size)
    batch = {key: np.repeat(value, size, axis=0) for key, value in rows.items()}
    while len(samples) < num_samples:
        made = trained.make(batch, list(given), steps, seed=seed, first=len(samples))
        values = {name: trained.values(name, made[name]) for name in targets}
        samples += [{name: of[i] for name, of in values.items()} for i in range(size)]
    modalities = {name: trained.model.config.modality(name) for name in (*given, *targets)}
    return Made(modalities, dict(given), image, samples[:num_samples], seed)


def _steps(
    trained: Trained, given: Sequence[str], targets: Sequence[str], settings: dict[str, Any]
) -> list[Step]:
    model = trained.model.config
    if not given or not targets:
        raise UserError("name at least one modality that is given, and one to make")
    for name in given:
        if name not in model.inputs:
            made_of = [n for n in model.inputs if model.modality(n).value == name]
            hint = f"; {' and '.join(made_of)} is made of it" if made_of else ""
            raise UserError(
                f"given {name}: the model does not read it, only {', '.join(model.inputs)}{hint}"
            )
    for index, name in enumerate(targets):
        if name in (*given, *targets[:index]):
            raise UserError(f"{name} is to be made, but it is there already; leave one out")
    steps: list[Step] = []
    for index, target in enumerate(targets):
        there = [name for name in model.inputs if name in (*given, *targets[:index])]
        steps.append(trained.step(target, **_guided(settings, there)))
    check_all(steps, model, given)
    guidance = settings.get("guidance")
    for name in guidance if isinstance(guidance, dict) else ():
        if not any(name in step.guidance for step in steps if isinstance(step.guidance, dict)):
            raise UserError(
                f"--guidance {name}: no step reads it; nothing would come of its weight"
            )
    images = any(model.modality(target).is_image for target in targets)
    if not images and (idle := [f"--{name}" for name in OF_IMAGES if name in settings]):
        raise UserError(f"{' and '.join(idle)} would do nothing: no image is made; leave it out")
    return steps


def _guided(settings: dict[str, Any], conditions: Sequence[str]) -> dict[str, Any]:
    """A step's settings: of weights, those of its conditions; all its passes read the others."""
    weights = settings.get("guidance")
    if not isinstance(weights, dict):
        return settings
    own = {name: weight for name, weight in weights.items() if name in conditions}
    if not own:
        return {**settings, "guidance": 1.0}
    others = tuple(name for name in conditions if name not in own)
    return {**settings, "guidance": own, "unconditional": others}


def _read(
    trained: Trained, given: Mapping[str, str], part: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """The rows of what is given, one of each; and the first image of it, as it was read."""
    model = trained.model.config
    check_part(part, given, [name for name in given if is_file(model.modality(name))])
    channels = {name: tokenizer.config.channels for name, tokenizer in trained.tokenizers.items()}
    rows: dict[str, np.ndarray] = {}
    image = None
    for name, text in given.items():
        modality = model.modality(name)
        sample = read_given(modality, text, part, channels)
        row = trained.rows([sample], [name])
        if row["truncated"][0]:
            raise UserError(
                f"given {name}: it is longer than the {modality.length} tokens that the model "
                "reads; shorten it"
            )
        rows |= {key: value for key, value in row.items() if key.partition("/")[0] == name}
        if image is None and modality.content == IMAGE:
            image = sample.value(modality.value)
    return rows, image
