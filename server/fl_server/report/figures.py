"""The report's figures: matplotlib SVG, set into the page so that they take its colours and its font.

Colours are drawn as placeholders and then replaced by CSS variables, so one figure serves light, dark and print.
Text stays text. Nothing in a figure points outside the page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fl_server.report import view
from fl_shared.metrics.table import METRICS, Metric
from fl_shared.page import inline_svg
from fl_shared.results import Curve, EvaluationRow

INK, MUTED, GRID = "#010101", "#020202", "#030303"
EXTERNAL = ("#040401", "#040402", "#040403")
INTERNAL = "#050505"
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--line",
    **{colour: f"--external-{index + 1}" for index, colour in enumerate(EXTERNAL)},
    INTERNAL: "--internal",
}
_DASHES: tuple[str | tuple[int, tuple[float, ...]], ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.size": 10.5,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
}


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a site is drawn in every figure: colour, dash, weight."""

    colour: str
    dash: str | tuple[int, tuple[float, ...]]
    width: float
    external: bool


def looks(sites: Sequence[str], external: frozenset[str]) -> dict[str, Look]:
    """External sites strong and in colour, training sites thin and grey; dashes tell them apart without colour."""
    found: dict[str, Look] = {}
    for outside in (True, False):
        for index, name in enumerate(name for name in sites if (name in external) is outside):
            colour = EXTERNAL[index % len(EXTERNAL)] if outside else INTERNAL
            dash = _DASHES[index % len(_DASHES)]
            found[name] = Look(colour=colour, dash=dash, width=2.4 if outside else 1.3, external=outside)
    return found


def forest(rows: Sequence[EvaluationRow], style: dict[str, Look], *, several_models: bool, key: str) -> str:
    """A metric with its interval at each site, as one SVG element; rows without a value are named, not drawn."""
    metric = METRICS[rows[0].metric]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 0.9 + 0.42 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        axes.set_xlim(*_span(rows, metric))
        axes.set_ylim(len(rows) - 0.4, -0.6)
        if metric.chance is not None:
            axes.axvline(metric.chance, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.grid(axis="x", color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        for place, row in enumerate(rows):
            _forest_row(axes, place, row, style[row.site])
        names = [f"{row.site} ({row.model})" if several_models else row.site for row in rows]
        axes.set_yticks(range(len(rows)), names)
        for label, row in zip(axes.get_yticklabels(), rows, strict=True):
            label.set_color(style[row.site].colour if style[row.site].external else INK)
            label.set_fontweight("bold" if style[row.site].external else "normal")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        unit = ", in the unit of the target" if metric.in_unit else ""
        chance = "" if metric.chance is None else " (dashed line: chance)"
        axes.set_xlabel(f"{metric.title}{unit}, with 95 % interval{chance}")
        return inline_svg(figure, key=key, variables=VARIABLES)


def _span(rows: Sequence[EvaluationRow], metric: Metric) -> tuple[float, float]:
    """Ends of the axis: about one half to 1 for a share, about all intervals for what has a unit."""
    numbers = [n for row in rows for n in (row.value, row.ci_low, row.ci_high) if n is not None]
    if math.isfinite(metric.high):
        return max(metric.low, min([0.5, *numbers]) - 0.03), metric.high
    low, high = min(numbers, default=0.0), max(numbers, default=1.0)
    margin = 0.05 * (high - low) or 0.5
    return max(metric.low, low - margin), high + margin


def _forest_row(axes: Axes, place: int, row: EvaluationRow, look: Look) -> None:
    if row.value is None:
        where = axes.get_yaxis_transform()
        axes.text(0.08, place, row.note or "no value", color=MUTED, style="italic", va="center", transform=where)
        return
    if row.ci_low is not None and row.ci_high is not None:
        axes.plot([row.ci_low, row.ci_high], [place, place], color=look.colour, linewidth=look.width)
    axes.plot([row.value], [place], marker="D" if look.external else "o", markersize=7, color=look.colour)
    axes.text(1.02, place, view.estimate(row), color=INK, va="center", transform=axes.get_yaxis_transform())


_PANELS = {
    "roc": ("Discrimination (ROC)", "1 - specificity", "Sensitivity"),
    "pr": ("Precision and recall", "Recall (sensitivity)", "Precision"),
    "calibration": ("Calibration", "Predicted risk", "Observed share"),
}


def curves(found: Sequence[Curve], style: dict[str, Look], *, key: str) -> str:
    """ROC, precision-recall and calibration of one label at all sites, as one SVG element."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 3.55), layout="constrained")
        for axes, (kind, (title, x_name, y_name)) in zip(figure.subplots(1, 3), _PANELS.items(), strict=True):
            _panel(axes, title=title, x_name=x_name, y_name=y_name, diagonal=kind != "pr")
            for curve in (c for c in reversed(found) if c.kind == kind):  # external sites last: on top
                _draw(axes, curve, style[curve.site])
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles[::-1], names[::-1], loc="outside lower center", ncols=min(5, max(1, len(names))))
        return inline_svg(figure, key=key, variables=VARIABLES)


def calibration_panel(axes: Axes, found: Sequence[Curve], style: dict[str, Look], *, title: str) -> None:
    """Calibration of one label at all sites."""
    _, x_name, y_name = _PANELS["calibration"]
    _panel(axes, title=title, x_name=x_name, y_name=y_name, diagonal=True)
    for curve in reversed(found):
        _draw(axes, curve, style[curve.site])


def _panel(axes: Axes, *, title: str, x_name: str, y_name: str, diagonal: bool) -> None:
    axes.set(title=title, xlabel=x_name, ylabel=y_name, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.set_xticks([0, 0.5, 1.0])
    axes.set_yticks([0, 0.5, 1.0])
    axes.grid(color=GRID, linewidth=0.7)
    if diagonal:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))


def _draw(axes: Axes, curve: Curve, look: Look) -> None:
    name = f"{curve.site} ({'external' if look.external else 'internal'})"
    x, y = curve.x, curve.y
    if curve.kind == "roc":
        x, y = (0.0, *x), (0.0, *y)
    (line,) = axes.plot(x, y, color=look.colour, linestyle=look.dash, linewidth=look.width, label=name)
    if curve.kind == "calibration":
        line.set(marker="D" if look.external else "o", markersize=5 if look.external else 3.5)
