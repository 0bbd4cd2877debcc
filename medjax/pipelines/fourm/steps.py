"""How a modality is made: the settings of a run's `evaluate` as a step of a schedule."""

from collections.abc import Mapping
from typing import Any

from medjax.data.wordpiece import WordPiece
from medjax.decoding.fourm.steps import Step
from medjax.errors import UserError
from medjax.models.fourm import FourMConfig

OF_IMAGES = ("scheme", "num_steps", "token_schedule", "temperature_schedule")
SETTINGS = (*OF_IMAGES, "temperature", "top_p", "top_k", "guidance")


def make_step(
    evaluate: Mapping[str, Any],
    model: FourMConfig,
    wordpiece: WordPiece | None,
    target: str,
    **changes: Any,
) -> Step:
    """The step that makes a modality.

    Args:
      evaluate: a config's `evaluate`.
      target: name of the modality.
      **changes: settings that differ; a sequence reads none of `OF_IMAGES`. Also other fields of
        `Step`.

    Raises:
      UserError: what `Step` refuses, or no target of the model.
    """
    if target not in model.targets:
        raise UserError(f"the model does not predict {target!r}, only {', '.join(model.targets)}")
    modality = model.modality(target)
    values: dict[str, Any] = {name: evaluate[name] for name in SETTINGS} | changes
    values["top_k"] = values["top_k"] or None  # a config has no None
    if modality.is_image:
        values["num_steps"] = min(values["num_steps"], modality.length)
        if values["scheme"] != "maskgit" and "token_schedule" not in changes:
            del values["token_schedule"]
        return Step(target, **values)
    if wordpiece is None or len(wordpiece.sentinel_ids) < 2:
        raise UserError(
            f"{target!r} is a sequence, which begins and ends with a sentinel; wordpiece_sentinels "
            "must be 2 at least"
        )
    start, end, *_ = sentinels = tuple(wordpiece.sentinel_ids)
    values = {name: value for name, value in values.items() if name not in OF_IMAGES}
    ends = {"start_id": start, "eos_id": end, "sentinels": sentinels}
    return Step(target, **{"scheme": "autoregressive", **ends, **values})
