"""Quality, speed and memory of 4M with one and another number of key/value heads, as a table.

The fewer heads of keys and values there are, the more heads of queries share one (grouped-query
attention, arXiv:2305.13245).
"""

import dataclasses
import json
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from medjax.decoding.fourm.cache_size import CacheSize
from medjax.evaluation.fourm.heads_picture import Bars, Panel, write_png
from medjax.evaluation.table import Estimate, metric_name
from medjax.files import write_whole

NAME = "gqa"


class Spread(NamedTuple):
    """Of values that were measured again and again."""

    min: float
    median: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(min(values), statistics.median(values), max(values))

    def told(self, digits: str) -> str:
        """All three, each in a format such as ".2f"."""
        return " / ".join(format(value, digits) for value in self)


class Score(NamedTuple):
    """A metric, and what the model has of it."""

    metric: str
    estimate: Estimate


@dataclasses.dataclass(frozen=True)
class Variant:
    """A model with a number of key/value heads.

    Attributes:
      heads: that number, K.
      parameters: how many the model has.
      losses: of validation, nats a token: "loss", and of each target "loss/<its name>".
      scores: by direction.
      milliseconds: by what was timed.
      relative: each time over the first variant's in the same round.
      cache: as counted. formula: as it must be.
    """

    heads: int
    parameters: int
    losses: Mapping[str, float]
    scores: Mapping[str, Score]
    milliseconds: Mapping[str, Spread]
    relative: Mapping[str, Spread]
    cache: CacheSize
    formula: CacheSize

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        spreads = {
            field: {key: spread._asdict() for key, spread in getattr(self, field).items()}
            for field in ("milliseconds", "relative")
        }
        return {
            "kv_heads": self.heads,
            "parameters": self.parameters,
            "validation": dict(self.losses),
            "scores": {
                direction: {"metric": score.metric, **score.estimate.to_dict()}
                for direction, score in self.scores.items()
            },
            **spreads,
            "cache_bytes": self.cache._asdict(),
            "cache_bytes_by_formula": self.formula._asdict(),
        }


@dataclasses.dataclass(frozen=True)
class Large:
    """What a large model of `queries` query heads would hold of a sample of 256 + 256 tokens.

    Attributes:
      name: of the model. sizes: in 16 bit, by the number of key/value heads.
    """

    name: str
    queries: int
    context: int
    room: int
    sizes: Mapping[int, CacheSize]


@dataclasses.dataclass(frozen=True)
class Ablation:
    """Everything that was found.

    Attributes:
      title: names the run.
      queries: heads of queries, N.
      variants: the most heads first.
      timed: in words, what was timed, by the keys of `Variant.milliseconds`.
      context, room: tokens that a sample's keys and values are counted of.
      itemsize: bytes of one number of them.
      large: of a large model.
      about: what else the figures depend on: the device, versions, steps, ...
    """

    title: str
    queries: int
    variants: Sequence[Variant]
    timed: Mapping[str, str]
    context: int
    room: int
    itemsize: int
    large: Large
    about: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        large = self.large
        return {
            "title": self.title,
            **self.about,
            "num_heads": self.queries,
            "timed": dict(self.timed),
            "cache_tokens": {"past": self.room, "context": self.context},
            "variants": [variant.to_dict() for variant in self.variants],
            large.name: {
                "num_heads": large.queries,
                "cache_tokens": {"past": large.room, "context": large.context},
                "cache_bytes": {str(k): sizes._asdict() for k, sizes in large.sizes.items()},
            },
        }

    def to_markdown(self) -> str:
        """Two tables, and how to read them."""
        heads = [str(v.heads) for v in self.variants]
        table = _table(f"key/value heads, of {self.queries}", heads, self._rows())
        large = self.large
        rows = {
            f"decoder's own cache, {large.room} tokens": _binary(large.sizes.values(), "past"),
            f"of the context, {large.context} tokens": _binary(large.sizes.values(), "context"),
        }
        columns = [str(k) for k in large.sizes]
        return "\n\n".join(
            [
                table,
                self.note,
                f"The same of {large.name} in 16 bit:",
                _table(f"key/value heads, of {large.queries}", columns, rows),
            ]
        )

    @property
    def note(self) -> str:
        """How to read the numbers."""
        about = self.about
        return (
            f"Each model was trained for {about['steps']:,} steps from scratch with seed "
            f"{about['seed']}, on the same samples in the same order; one training each, so that "
            "differences of the size of the intervals may be chance. Scores have 95% bootstrap "
            f"intervals over {about['groups']} of the test data. Times are milliseconds, least / "
            f"median / greatest of {about['rounds']} rounds in which the models took turns, on "
            f"{about['device']}; a token's has its part of the encoder's. "
            f"Keys and values are one sample's, in numbers of {self.itemsize} bytes; the "
            "formula is 2 × layers × tokens × key/value heads × head width × bytes, "
            "register tokens among the context's."
        )

    def _rows(self) -> dict[str, list[str]]:
        variants, first = self.variants, self.variants[0]
        rows = {"parameters": [f"{v.parameters:,}" for v in variants]}
        for key in first.losses:
            name = key.replace("loss/", "of ") if "/" in key else ""
            label = f"validation loss {name}".strip() + ", nats a token"
            rows[label] = [f"{v.losses[key]:.3f}" for v in variants]
        for direction, score in first.scores.items():
            label = f"{direction}, {metric_name(score.metric)}"
            rows[label] = [str(v.scores[direction].estimate) for v in variants]
        for key, what in self.timed.items():
            rows[f"{what}, ms"] = [v.milliseconds[key].told(",.1f") for v in variants]
            if len(variants) > 1:
                rows[f"{what}, relative to {first.heads}"] = [
                    v.relative[key].told(".2f") for v in variants
                ]
        for field, what in self._held().items():
            rows[f"{what}, KiB"] = [f"{getattr(v.cache, field) / 2**10:g}" for v in variants]
            rows[f"{what}, by the formula, KiB"] = [
                f"{getattr(v.formula, field) / 2**10:g}" for v in variants
            ]
        return rows

    def _held(self) -> dict[str, str]:
        return {
            "past": f"decoder's own cache, {self.room} tokens",
            "context": f"keys and values of the context, {self.context} tokens",
        }

    def write(self, folder: pathlib.Path) -> None:
        """Writes gqa.json, gqa.md and gqa.png, each whole or not at all.

        Raises:
          UserError: matplotlib is missing.
        """
        write_png(folder / f"{NAME}.png", self.panels(), title=self.title)
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"
        write_whole(folder / f"{NAME}.json", text.encode())
        write_whole(folder / f"{NAME}.md", f"# {self.title}\n\n{self.to_markdown()}\n".encode())

    def panels(self) -> dict[str, list[Panel]]:
        """What is drawn, by what it is about."""
        variants, first = self.variants, self.variants[0]
        heads = [v.heads for v in variants]
        axis = f"key/value heads, of {self.queries}"
        losses = Bars("", [v.losses["loss"] for v in variants])
        quality = [Panel("validation loss", "nats a token ↓", axis, heads, [losses], points=True)]
        for direction, score in first.scores.items():
            bars = _interval([v.scores[direction].estimate for v in variants])
            unit = f"{metric_name(score.metric)} ↑"
            title = direction.replace("->", "→")
            quality.append(Panel(title, unit, axis, heads, [bars], points=True))
        speed = [
            Panel(
                what.replace(": ", "\n").replace("->", "→"), "ms ↓", axis, heads,
                [_interval([v.milliseconds[key] for v in variants])],
            )
            for key, what in self.timed.items()
        ]  # fmt: skip
        large = self.large
        memory = [
            _memory(
                f"keys and values of a sample,\n{self.context} + {self.room} tokens",
                axis,
                {v.heads: v.cache for v in variants},
            ),
            _memory(
                f"{'_'.join(large.name.split('_')[:2])}, 16 bit,\n"
                f"{large.context} + {large.room} tokens",
                f"key/value heads, of {large.queries}",
                large.sizes,
            ),
        ]
        counts = [v.parameters / 1e6 for v in variants]
        memory.append(Panel("parameters", "millions ↓", axis, heads, [Bars("", counts)]))
        return {"Quality": quality, "Speed": speed, "Memory": memory}


def _interval(found: Sequence[Spread | Estimate]) -> Bars:
    """Values with the ends of their intervals."""
    rows = [
        (f.value, f.low, f.high) if isinstance(f, Estimate) else (f.median, f.min, f.max)
        for f in found
    ]
    values, lows, highs = (list(column) for column in zip(*rows, strict=True))
    return Bars("", values, lows, highs)


def _memory(title: str, axis: str, sizes: Mapping[int, CacheSize]) -> Panel:
    unit, scale = ("MiB", 2**20) if max(map(max, sizes.values())) >= 2**20 else ("KiB", 2**10)
    read = Bars("read", [s.context / scale for s in sizes.values()])
    written = Bars("written", [s.past / scale for s in sizes.values()])
    return Panel(title, f"{unit} ↓", axis, list(sizes), [read, written])


def _binary(sizes: Iterable[CacheSize], field: str) -> list[str]:
    return [f"{getattr(s, field) / 2**20:g} MiB" for s in sizes]


def _table(corner: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    lines = [[corner, *columns], ["---", *["---:"] * len(columns)]]
    lines += [[name, *cells] for name, cells in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
