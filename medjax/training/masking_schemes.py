"""From a config's words to how the samples of a source are masked."""

from collections.abc import Sequence
from typing import Any

from medjax_kernels.masking import MaskingScheme
from medjax_kernels.masking import Modality as Masked
from ml_collections import ConfigDict

from medjax.errors import UserError
from medjax.modalities.table import SEQUENCE, SEQUENCE_TOKENS, Modality
from medjax.models.fourm import FourMConfig


def make_scheme(
    where: str,
    spec: ConfigDict,
    masking: ConfigDict,
    model: FourMConfig,
    names: Sequence[str],
    sentinels: Sequence[int],
) -> MaskingScheme:
    """How the samples of one source are masked.

    Args:
      where: the source is in the config, for messages.
      spec: of the source: alphas, keep, mixture and budgets, where they are not the run's.
      masking: the config's own.
      model: which modalities are read, and which are predicted; the alphas of others are 0.
      names: modalities of the samples.
      sentinels: ids of [S_0], [S_1], ...

    Raises:
      UserError: alphas of a modality that the samples do not have, lists of the wrong length,
        budgets that the model or the samples have no room for, or sentinels that a sequence's
        vocabulary lacks.
    """
    chosen = [modality for modality in model.modalities if modality.name in names]
    for field in ("input_alphas", "target_alphas", "keep"):
        if unknown := sorted(set(spec[field]) - {modality.name for modality in chosen}):
            raise UserError(
                f"{where}.{field}: {', '.join(unknown)} is none of the modalities of its samples, "
                f"{', '.join(modality.name for modality in chosen)}"
            )
    for modality in chosen:
        is_sequence = modality.kind in (SEQUENCE, SEQUENCE_TOKENS)
        if is_sequence and sentinels and max(sentinels) >= (modality.vocab_size or 0):
            raise UserError(
                f"{where}: modality {modality.name!r} has a vocabulary of {modality.vocab_size}, "
                f"but the sentinels, which take the place of masked tokens, go up to "
                f"{max(sentinels)}; its vocab_size must be above that"
            )
    components = _components(where, spec, chosen)

    def alphas(modality: Modality, side: str, users: Sequence[str]) -> tuple[float, ...]:
        field = f"{side}_alphas"
        values = spec[field].get(modality.name, getattr(modality, field))
        return _spread(tuple(map(float, values)) if modality.name in users else (0.0,), components)

    modalities = tuple(
        Masked(
            name=modality.name,
            kind="sequence" if modality.kind in (SEQUENCE, SEQUENCE_TOKENS) else "image",
            max_tokens=modality.length,
            input_alphas=alphas(modality, "input", model.inputs),
            target_alphas=alphas(modality, "target", model.targets),
            min_tokens=modality.min_tokens,
            keep=_spread(spec.keep.get(modality.name, modality.keep), components),
        )
        for modality in chosen
    )
    budgets = {
        side: _budget(where, side, spec[f"{side}_tokens"] or masking[f"{side}_tokens"], modalities)
        for side in ("input", "target")
    }
    for side, length, users in (
        ("input", "encoder_length", model.inputs),
        ("target", "decoder_length", model.targets),
    ):
        # Not of the samples' own: sources may differ in their modalities, and share a budget.
        most = sum(model.modality(name).length for name in users)
        for field, number in ((f"{side}_tokens", budgets[side][1]), (length, masking[length])):
            if number > most:
                raise UserError(
                    f"{where}: {field} {number} is more than the {most} tokens of all that the "
                    f"model has for the {side}; lower it"
                )
        if masking[length] and budgets[side][1] > masking[length]:
            raise UserError(
                f"{where}: {side}_tokens {budgets[side]} is more than masking.{length} "
                f"{masking[length]}"
            )
    try:
        return MaskingScheme(
            modalities,
            input_tokens=budgets["input"],
            target_tokens=budgets["target"],
            encoder_length=masking.encoder_length or None,
            decoder_length=masking.decoder_length or None,
            sentinels=tuple(sentinels),
            weights=tuple(map(float, spec.mixture)) or None,
        )
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _components(where: str, spec: ConfigDict, chosen: Sequence[Modality]) -> int:
    """How many components the mixture has: all lists are as long, or of one number for all."""
    lengths: dict[str, int] = {}
    if spec.mixture:
        lengths["mixture"] = len(spec.mixture)
    for modality in chosen:
        for field in ("input_alphas", "target_alphas", "keep"):
            values = spec[field].get(modality.name, getattr(modality, field))
            if not isinstance(values, list | tuple):
                raise UserError(
                    f"{where}.{field}.{modality.name} is {values!r}; it must be a list, with a "
                    "value for each component of the mixture"
                )
            if field != "keep" and not all(type(value) in (int, float) for value in values):
                raise UserError(
                    f"{where}.{field}.{modality.name} is {tuple(values)!r}; it must hold numbers"
                )
            if len(values) > 1:
                lengths[f"{field}.{modality.name}"] = len(values)
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{key} has {count}" for key, count in lengths.items())
        raise UserError(
            f"{where}: lists of different lengths: {found}. Each needs a value for each component "
            "of the mixture, or one for all"
        )
    return next(iter(lengths.values()), 1)


def _spread(values: Sequence[Any], components: int) -> tuple[Any, ...]:
    return tuple(values) * components if len(values) == 1 else tuple(values)


def _budget(
    where: str, side: str, budget: Sequence[int], modalities: Sequence[Masked]
) -> tuple[int, int]:
    whole = len(budget) == 2 and all(type(n) is int for n in budget)
    if not whole or not 0 <= budget[0] <= budget[1] or not budget[1]:
        raise UserError(
            f"{where}: {side}_tokens is {tuple(budget)}; it must be the least and the greatest "
            "number of tokens"
        )
    most = sum(m.max_tokens for m in modalities if any(getattr(m, f"{side}_alphas")))
    if budget[0] > most:
        raise UserError(
            f"{where}: {side}_tokens {tuple(budget)} is more than the {most} tokens that its "
            f"modalities have for the {side}; lower it"
        )
    return budget[0], budget[1]
