"""Small panels, one a figure, of what changes with the number of key/value heads."""

import dataclasses
import io
import os
from collections.abc import Mapping, Sequence

import numpy as np

from medjax.errors import UserError
from medjax.files import write_whole

_COLUMNS = 5
# Inches: of a panel's frame, around it (titles and numbers go there), and above the first.
_WIDTH, _HEIGHT, _ASIDE, _BETWEEN, _ABOVE = 1.9, 1.75, 0.75, 1.3, 1.15
# Of Okabe and Ito's palette, a dark and a light one: grey tells them apart, too.
_DARK, _LIGHT, _GREY, _INK = "#0072B2", "#F0E442", "#D4D7DA", "#202020"
# An axis ends at so many times the greatest value, however long the slowest round took.
_ROOM = 1.4


@dataclasses.dataclass(frozen=True)
class Bars:
    """A value for each number of heads; `lows` and `highs` are the ends of its interval."""

    label: str
    values: Sequence[float]
    lows: Sequence[float] = ()
    highs: Sequence[float] = ()


@dataclasses.dataclass(frozen=True)
class Panel:
    """One figure.

    Attributes:
      unit: of the values. axis: what the numbers below say.
      heads: those numbers.
      bars: stacked on one another, or one alone.
      points: whether points are drawn, whose axis need not begin at zero.
    """

    title: str
    unit: str
    axis: str
    heads: Sequence[int]
    bars: Sequence[Bars]
    points: bool = False


def write_png(
    path: str | os.PathLike[str], groups: Mapping[str, Sequence[Panel]], *, title: str = ""
) -> None:
    """Draws the panels in rows, group by group, and writes them whole or not at all.

    Raises:
      UserError: matplotlib is missing.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise UserError("a picture needs matplotlib: pip install 'medjax[report]'") from error
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    groups = {name: panels for name, panels in groups.items() if panels}
    columns = min(_COLUMNS, max(map(len, groups.values())))
    rows = sum(-(-len(panels) // columns) for panels in groups.values())
    width = columns * (_WIDTH + _ASIDE)
    height = _ABOVE + rows * (_HEIGHT + _BETWEEN) - 0.5
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False)
    figure.subplots_adjust(
        left=_ASIDE / width, right=1 - 0.1 / width, wspace=_ASIDE / _WIDTH,
        bottom=(_BETWEEN - 0.5) / height, top=1 - _ABOVE / height, hspace=_BETWEEN / _HEIGHT,
    )  # fmt: skip
    row = 0
    for name, panels in groups.items():
        axes[row, 0].annotate(
            name, (0, 1), xycoords="axes fraction", xytext=(-38, 34), textcoords="offset points",
            fontsize=12, fontweight="bold",
        )  # fmt: skip
        count = -(-len(panels) // columns)
        places = axes[row : row + count].ravel()
        for axis, panel in zip(places, panels, strict=False):
            _draw(axis, panel)
        for axis in places[len(panels) :]:
            axis.set_visible(False)
        row += count
    if title:
        figure.suptitle(title, fontsize=13, x=0.01, y=1 - 0.1 / height, ha="left", va="top")
    picture = io.BytesIO()
    figure.savefig(picture, dpi=110, format="png", metadata={"Software": "medjax"})
    plt.close(figure)
    write_whole(path, picture.getvalue())


def _short(value: float) -> str:
    """Four digits, no powers of ten."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _draw(axis, panel: Panel) -> None:
    places = np.arange(len(panel.heads))
    total = np.sum([bars.values for bars in panel.bars], axis=0)
    bottom = np.zeros(len(places))
    for bars, colour, hatch in zip(panel.bars, (_DARK, _LIGHT), ("", "////"), strict=False):
        values = np.array(bars.values)
        if panel.points:
            axis.plot(places, values, "o", color=colour, markersize=6)
        else:
            axis.bar(
                places, values, 0.66, bottom, color=colour, edgecolor=_DARK, hatch=hatch,
                label=bars.label,
            )  # fmt: skip
        if len(bars.lows) and not np.isnan(bars.lows).any():
            ends = np.abs(np.array([bars.lows, bars.highs]) - values)
            axis.errorbar(places, values, ends, fmt="none", ecolor=_INK, elinewidth=1, capsize=3)
        bottom = bottom + values
    _number(axis, panel, places, total)
    if not panel.points:
        axis.set_ylim(0, _ROOM * total.max())
    elif axis.get_ylim()[0] < 0 <= total.min():
        axis.set_ylim(bottom=-0.04 * axis.get_ylim()[1])  # a point at 0 is whole
    axis.set_xticks(places, [str(k) for k in panel.heads])
    axis.set_xlim(-0.6, len(places) - (0.2 if panel.points else 0.4))
    axis.set_title(panel.title, fontsize=9.5, loc="left")
    axis.set_xlabel(panel.axis, fontsize=9)
    axis.set_ylabel(panel.unit, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color=_GREY, linewidth=0.5)
    axis.set_axisbelow(True)
    if len(panel.bars) > 1:
        axis.legend(frameon=False, fontsize=8, loc="upper right")


def _number(axis, panel: Panel, places: np.ndarray, values: np.ndarray) -> None:
    """Writes each value where nothing else is: by a point, in a bar with an interval, on others."""
    for place, value in zip(places, values, strict=True):
        at, offset, style = (place, value), (0, 2), dict(ha="center", va="bottom", color=_INK)
        if panel.points:
            offset, style = (5, 0), dict(ha="left", va="center", color=_INK)
        elif panel.bars[0].lows:
            at, style["color"] = (place, 0), "white"
        axis.annotate(
            _short(value), at, xytext=offset, textcoords="offset points", fontsize=8, **style
        )
