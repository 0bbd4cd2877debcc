"""The curves of a run as a picture: a row a stage, losses to the left, scores beside them."""

import io
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from medjax.errors import UserError
from medjax.evaluation.curves import Curve, Curves, figure_name
from medjax.files import write_whole
from medjax.training.early_stopping import lower_is_better

_BINS = 60  # of a training curve; what was logged in between is drawn faintly
_COLOURS = ("#0b62a8", "#c4491d", "#2f7d4f", "#8a4fa3", "#a8770b", "#3d8f96", "#b0417a", "#6b6f76")
_DASHED = (0, (4, 2))
_WITHIN = 4  # so many entries of a legend find room among the curves
_TRAIN, _INK, _OVERFITTING = "#8a939e", "#1b1f24", "#f3d9cf"


def write_png(path: str | os.PathLike[str], stages: Sequence[Curves], *, title: str = "") -> None:
    """Draws the curves and writes them, whole or not at all.

    Raises:
      UserError: matplotlib is missing.
    """
    write_whole(path, png(stages, title=title))


def png(stages: Sequence[Curves], *, title: str = "") -> bytes:
    """The picture that `write_png` writes."""
    try:
        import matplotlib
    except ImportError as error:
        raise UserError("a picture needs matplotlib: pip install 'medjax[report]'") from error
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    panels = [list(_panels(curves)) for curves in stages]
    columns = max(map(len, panels))
    width, height = max(7.0, 4.6 * columns), 3.8 * len(stages) + 0.4 * bool(title)
    figure = plt.figure(figsize=(width, height), layout="constrained")
    if title:
        figure.suptitle(title, fontsize=13, x=0.01, ha="left")
    # A subfigure a stage: its heading spans all panels.
    rows = figure.subfigures(len(stages), 1, squeeze=False)[:, 0]
    for curves, of_stage, row in zip(stages, panels, rows, strict=True):
        axes = row.subplots(1, columns, squeeze=False)[0]
        for (heading, names), axis in zip(of_stage, axes, strict=False):
            _draw(axis, curves, heading, names)
        for axis in axes[len(of_stage) :]:
            axis.axis("off")
        said = textwrap.fill(f"{curves.stage}: {curves.told()}", int(13 * width))
        row.suptitle(said, fontsize=10, x=0.01, ha="left", color=_INK)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=110, format="png", metadata={"Software": "medjax"})
    plt.close(figure)
    return picture.getvalue()


def _panels(curves: Curves) -> Iterator[tuple[str, list[str]]]:
    """What is drawn in one place, by what its axis is called: figures of a kind."""
    yield "loss", ["loss"]
    rest = [name for name in curves.validation if name != "loss"]
    losses = [name for name in rest if lower_is_better(name)]
    scores = [name for name in rest if name not in losses and max(curves.validation[name].y) <= 1]
    if scores:
        yield "score", scores
    if losses:
        yield "parts of the loss", losses
    for name in rest:
        if name not in (*losses, *scores):
            yield figure_name(name), [name]


def _draw(axis, curves: Curves, heading: str, names: Sequence[str]) -> None:
    many = len(names) > 1
    if curves.risen is not None:
        start = curves.place(curves.risen)
        said = "overfitting" if heading == "loss" else None  # once is enough
        axis.axvspan(start, curves.end, color=_OVERFITTING, lw=0, zorder=0, label=said)
    merged = _merged({name: curves.validation.get(name) for name in names})
    for index, same in enumerate(merged):
        label, name = ", ".join(map(figure_name, same)), same[0]
        colour = _COLOURS[index % len(_COLOURS)]
        if (train := curves.train.get(name)) is not None:
            pale = colour if many else _TRAIN
            smooth = train.binned(_BINS)
            if smooth is not train:
                axis.plot(train.x, train.y, color=pale, lw=0.8, alpha=0.2)
            said = None if many else "training"
            axis.plot(smooth.x, smooth.y, color=pale, lw=1.3, ls=_DASHED, label=said)
        if (held_out := curves.validation.get(name)) is not None:
            said = label if many else "validation"
            axis.plot(held_out.x, held_out.y, color=colour, lw=1.8, marker="o", ms=3.5, label=said)
        if curves.metric in same and curves.best is not None:
            x, y = curves.place(curves.best), curves.evaluations[curves.best][curves.metric]
            axis.plot(
                [x], [y], marker="*", ms=14, color=colour, mec="white", ls="", zorder=5,
                label=f"best, {curves.unit} {x:,.4g}",
            )  # fmt: skip
    if many and any(name in curves.train for name in names):
        axis.plot([], [], color=_TRAIN, lw=1.3, ls=_DASHED, label="training")
    if curves.best is not None:
        axis.axvline(curves.place(curves.best), color=_INK, lw=0.9, ls=":", zorder=1)
    if curves.stopped:
        said = "stopped early" if heading == "loss" else None
        axis.axvline(curves.end, color=_INK, lw=1.6, zorder=1, label=said)
    axis.set_xlabel(curves.unit)
    axis.set_ylabel(heading if many else figure_name(names[0]))
    axis.margins(x=0.02)
    if heading == "score":
        axis.set_ylim(-0.02, 1.02)
    axis.grid(color="#e2e4e7", lw=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    if labels := axis.get_legend_handles_labels()[1]:
        beside = (
            {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)} if len(labels) > _WITHIN else {}
        )
        axis.legend(fontsize=8, edgecolor="none", framealpha=0.85, **beside)


def _merged(found: Mapping[str, Curve | None]) -> list[list[str]]:
    """Names of curves; of those that are the same all along together, for one line."""
    same: dict[object, list[str]] = {}
    for name, curve in found.items():
        same.setdefault(name if curve is None else curve, []).append(name)
    return list(same.values())
