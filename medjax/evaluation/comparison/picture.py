"""A comparison as a picture: a panel for each metric, in it each system's point and interval."""

import io
import math
import os

from medjax.errors import UserError
from medjax.evaluation.comparison.table import Column, Comparison, Section
from medjax.evaluation.comparison.text import NOTHING, lines_of
from medjax.evaluation.metrics import METRICS
from medjax.evaluation.table import metric_name, metric_top
from medjax.files import write_whole

# Of the palette of Okabe and Ito; published ones are told by their shape, too.
MEASURED, PUBLISHED = "#0072B2", "#D55E00"
_INK, _FAINT, _LINE = "#1B1F24", "#6A727C", "#D4D7DA"
MOST_PANELS = 24
_COLUMNS = 3
_NARROWEST = 0.1  # of a metric's whole range, shown by an axis
_LONGEST = 34  # letters of a system's name


def write_png(path: str | os.PathLike[str], comparison: Comparison, *, title: str = "") -> int:
    """Draws the first `MOST_PANELS` metrics, and writes the picture whole or not at all.

    Where they are more, those that do not stand for a task (`Metric.main`) are left out first.

    Returns:
      How many metrics there was no room for.

    Raises:
      UserError: matplotlib is missing.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise UserError("a picture needs matplotlib: pip install 'medjax[report]'") from error
    matplotlib.use("agg")
    from matplotlib import pyplot as plt
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels = [(section, column) for section in comparison.sections for column in section.columns]
    main = [
        (section, column)
        for section, column in panels
        if column.metric not in METRICS or METRICS[column.metric].main
    ]
    shown = (panels if len(panels) <= MOST_PANELS else main or panels)[:MOST_PANELS]
    across = min(_COLUMNS, len(shown))
    down = -(-len(shown) // across)
    tallest = max(len(lines_of(comparison, section)) for section, _ in shown)
    figure, axes = plt.subplots(
        down,
        across,
        figsize=(1.5 + 4.2 * across, 0.9 + down * (0.9 + 0.3 * tallest)),
        layout=ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.08),
        squeeze=False,
    )
    for axis, (section, column) in zip(axes.flat, shown, strict=False):
        _draw(axis, comparison, section, column)
    for axis in list(axes.flat)[len(shown) :]:
        axis.remove()
    styles = [("measured here", MEASURED, MEASURED, "o"), ("published", PUBLISHED, "white", "s")]
    handles = [
        plt.Line2D([], [], linestyle="", marker=shape, color=edge, markerfacecolor=face, label=name)
        for name, edge, face, shape in styles[
            : 1 + any(line.published for line in comparison.lines)
        ]
    ]
    handles.append(plt.Line2D([], [], color=_FAINT, linestyle=":", label=comparison.reference))
    if any(cell.differs for _, column in shown for cell in column.cells.values()):
        label = f"differs from {comparison.reference}"
        handles.append(plt.Line2D([], [], linestyle="", marker="$*$", color=_INK, label=label))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    if title:
        figure.suptitle(title.replace("$", r"\$"), fontsize=13)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120, format="png", metadata={"Software": "medjax"})
    plt.close(figure)
    write_whole(path, picture.getvalue())
    return len(panels) - len(shown)


def _draw(axis, comparison: Comparison, section: Section, column: Column) -> None:
    """One metric: a row a system, from the top down."""
    lines = lines_of(comparison, section)
    names = []
    for row, (number, line) in enumerate(lines):
        names.append(_short(line.name))
        cell = column.cells.get(number)
        if cell is None:
            # At the left edge, whatever the axis.
            axis.text(0.01, row, NOTHING, transform=axis.get_yaxis_transform(), va="center")
            continue
        value, low, high = cell.estimate.value, cell.estimate.low, cell.estimate.high
        colour = PUBLISHED if line.published else MEASURED
        face = "white" if line.published else colour
        if not math.isnan(low):
            axis.plot([low, high], [row, row], color=colour, linewidth=1.8, zorder=2)
        axis.plot(
            value, row, marker="s" if line.published else "o", markersize=6.5, color=colour,
            markerfacecolor=face, markeredgewidth=1.6, zorder=3,
        )  # fmt: skip
        if line.name == comparison.reference and not line.published:
            axis.axvline(value, color=_FAINT, linestyle=":", linewidth=1.2, zorder=1)
        if cell.differs:
            end = value if math.isnan(high) else max(value, high)
            axis.annotate(
                "*", (end, row), xytext=(5, -4), textcoords="offset points", color=_INK, fontsize=12
            )
    axis.set_yticks(range(len(lines)), names, fontsize=9)
    axis.set_ylim(len(lines) - 0.5, -0.5)
    axis.set_title(
        f"{_short(section.task)}: {_short(metric_name(column.metric))}",
        fontsize=10, loc="left", color=_INK,
    )  # fmt: skip
    axis.margins(x=0.09)
    left, right = axis.get_xlim()
    # Hairs do not fill a panel.
    if (lacking := _NARROWEST * metric_top(column.metric) - (right - left)) > 0:
        left, right = left - lacking / 2, right + lacking / 2
    # No score is below 0, but for room around a point there.
    axis.set_xlim(max(left, -0.02 * (right - left)), right)
    axis.tick_params(axis="x", labelsize=8, colors=_FAINT)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color=_LINE, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color(_LINE)


def _short(name: str) -> str:
    """At most `_LONGEST` letters, none of them the beginning of a formula."""
    cut = name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
    return cut.replace("$", r"\$")
