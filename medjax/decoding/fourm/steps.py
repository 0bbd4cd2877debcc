"""A schedule of steps, as plain records: what is made, from what, and how."""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence

from medjax.decoding.fourm.schedules import TOKEN_SCHEDULES, onex
from medjax.errors import UserError
from medjax.models.fourm import FourMConfig

IMAGE_SCHEMES = ("maskgit", "roar")
SCHEMES = (*IMAGE_SCHEMES, "autoregressive")
# Settings that some schemes alone read: given to another, they would silently do nothing.
_BELONGS_TO = {
    "num_steps": IMAGE_SCHEMES,
    "token_schedule": ("maskgit",),
    "temperature_schedule": IMAGE_SCHEMES,
    "start_id": ("autoregressive",),
    "eos_id": ("autoregressive",),
    "sentinels": ("autoregressive",),
}


@dataclasses.dataclass(frozen=True)
class Step:
    """How one modality is made.

    Attributes:
      target: its name.
      scheme: "maskgit" (an image, the surest tokens first), "roar" (an image, in random order), or
        "autoregressive" (a sequence, from left to right).
      num_tokens: how many tokens are made at most; all that are missing if None.
      num_steps: in which they are made; one token a step if None.
      token_schedule: how MaskGIT spreads tokens over steps: "cosine" (few first) or "linear". ROAR
        is linear.
      temperature: of the draw, the first of a schedule; 0 takes the most probable token.
      temperature_schedule: "constant", "linear", or "onex:LOWEST:POWER"; see
        `schedules.temperatures`.
      top_k, top_p: see `choosing.choose`.
      conditions: names of the modalities that it is made from; all that are known if None.
      guidance: classifier-free guidance: a scale (1 for none), with which everything is told from
        the unconditional pass; or a weight for each condition, which has a pass of its own.
      unconditional: conditions that the unconditional pass reads, and with it every pass.
      start_id: id that the decoder reads first: the first sentinel of text.
      eos_id: id that ends the sequence: the sentinel after those that are known, or an end token.
      sentinels: ids of all sentinels; see `spans`. If there are none, what is written takes the
        place of what was known.

    Raises:
      UserError: settings that mean nothing, or nothing together.
    """

    target: str
    scheme: str = "maskgit"
    num_tokens: int | None = None
    num_steps: int | None = None
    token_schedule: str = "cosine"
    temperature: float = 1.0
    temperature_schedule: str = "constant"
    top_k: int | None = None
    top_p: float = 1.0
    conditions: Sequence[str] | None = None
    guidance: float | Mapping[str, float] = 1.0
    unconditional: Sequence[str] = ()
    start_id: int | None = None
    eos_id: int | None = None
    sentinels: Collection[int] = ()

    def __post_init__(self):
        self._require(self.scheme in SCHEMES, f"scheme {self.scheme!r} is none of {_list(SCHEMES)}")
        for field in dataclasses.fields(self):
            owners, value = _BELONGS_TO.get(field.name, SCHEMES), getattr(self, field.name)
            self._require(
                self.scheme in owners or value == field.default,
                f"{field.name} {value!r} means nothing to scheme {self.scheme!r}, only to "
                f"{_list(owners)}; leave it out",
            )
        for name in ("num_tokens", "num_steps", "top_k"):
            value = getattr(self, name)
            self._require(value is None or value >= 1, f"{name} {value} must be at least 1")
        self._require(
            self.token_schedule in TOKEN_SCHEDULES,
            f"token_schedule {self.token_schedule!r} is none of {_list(TOKEN_SCHEDULES)}",
        )
        onex(self.temperature_schedule)
        self._require(
            0 <= self.temperature < math.inf,
            f"temperature {self.temperature} must be a number, 0 at least",
        )
        self._require(0 < self.top_p <= 1, f"top_p {self.top_p} is not in (0, 1]")
        self._require(
            self.scheme in IMAGE_SCHEMES or self.start_id is not None,
            "start_id is missing: the id that the decoder reads first",
        )
        guidance = self.guidance
        weights = list(guidance.values()) if isinstance(guidance, Mapping) else [guidance]
        self._require(
            bool(weights) and all(map(math.isfinite, weights)),
            f"guidance {self.guidance} must be a number, or a number for each condition",
        )

    def check(self, config: FourMConfig, known: Collection[str]) -> None:
        """Whether a model can do it.

        Args:
          known: names of the modalities that are there when it is this step's turn.

        Raises:
          UserError: if not.
        """
        self._require(
            self.target in config.targets,
            f"{self.target!r} is no target of the model; those are {_list(config.targets)}",
        )
        modality = config.modality(self.target)
        self._require(
            modality.is_image == (self.scheme in IMAGE_SCHEMES),
            f"scheme {self.scheme!r} cannot make {self.target!r} ({modality.kind}); choose "
            f"{_list(IMAGE_SCHEMES if modality.is_image else SCHEMES[2:])}",
        )
        self._require(
            not modality.is_image or self.target in config.inputs,
            f"the model does not read {self.target!r}, and would not know what it has made of it",
        )
        self._require(
            self.num_tokens is None or self.num_tokens <= modality.length,
            f"num_tokens {self.num_tokens} is more than the {modality.length} of {self.target!r}",
        )
        for field in ("start_id", "eos_id"):
            value = getattr(self, field)
            self._require(
                value is None or 0 <= value < (modality.vocab_size or 0),
                f"{field} {value} is beyond the vocabulary of {self.target!r}, which ends at "
                f"{(modality.vocab_size or 0) - 1}",
            )
        for name in self.conditions or ():
            self._require(
                name in known,
                f"condition {name!r} is absent: it is neither given nor made by an earlier step; "
                f"there is {_list(known) or 'nothing'}",
            )
            self._require(name in config.inputs, f"condition {name!r} is no input of the model")
            self._require(name != self.target, f"condition {name!r} is the target itself")
        self.passes(self.reads(config, known))

    def reads(self, config: FourMConfig, known: Collection[str]) -> tuple[str, ...]:
        """The conditions, by name, in the model's order."""
        names = known if self.conditions is None else self.conditions
        return tuple(n for n in config.inputs if n in names and n in known and n != self.target)

    def passes(self, conditions: Sequence[str]) -> tuple[list[tuple[str, ...]], list[float]]:
        """What each pass of the model reads, the unconditional first, and the others' weights.

        Raises:
          UserError: guidance or unconditional passes by what is no condition.
        """
        base, guidance = tuple(self.unconditional), self.guidance
        weighted = dict(guidance) if isinstance(guidance, Mapping) else {}
        for name in (*base, *weighted):
            self._require(
                name in conditions,
                f"{name!r} has a part in guidance and is no condition; those are "
                f"{_list(conditions) or 'none'}",
            )
        if not isinstance(guidance, Mapping):
            everything = tuple(conditions)
            return ([everything], []) if guidance == 1 else ([base, everything], [guidance])
        for name in conditions:
            self._require(
                (name in base) != (name in weighted),
                f"condition {name!r} must either have a weight in guidance or be unconditional",
            )
        return [base, *((*base, name) for name in weighted)], list(weighted.values())

    def _require(self, condition: bool, message: str) -> None:
        if not condition:
            raise UserError(f"step for {self.target!r}: {message}")


def check_all(steps: Sequence[Step], config: FourMConfig, known: Collection[str]) -> None:
    """Whether a model can do the steps of a schedule, one after another.

    Args:
      known: names of the modalities that are there before the first.

    Raises:
      UserError: names the first step that cannot be done.
    """
    there = list(known)
    for step in steps:
        step.check(config, there)
        there.append(step.target)


def _list(names: Collection[str]) -> str:
    return ", ".join(dict.fromkeys(names))
