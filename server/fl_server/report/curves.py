"""Curves of a label at all sites: ROC, precision and recall, calibration; each a picture with its numbers in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.axes import Axes

from fl_server.report import view
from fl_server.report.style import GRID, MUTED, Look, Picture, canvas, legend, looks
from fl_shared.metrics.table import METRICS
from fl_shared.results import Curve, Results

SIZE = (3.3, 3.25)  # inches of a panel


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A kind of curve. at, says: how a point of it is told, all or the one whose x is nearest ``told_at``."""

    title: str
    x_name: str
    y_name: str
    diagonal: bool
    metric: str
    at: str
    says: str
    told_at: float | None


PANELS = {
    "roc": Panel(
        title="Discrimination (ROC)", x_name="1 - specificity", y_name="Sensitivity", diagonal=True,
        metric="auroc", at="1 - specificity", says="sensitivity", told_at=0.2,
    ),
    "pr": Panel(
        title="Precision and recall", x_name="Recall (sensitivity)", y_name="Precision", diagonal=False,
        metric="auprc", at="recall", says="precision", told_at=0.8,
    ),
    "calibration": Panel(
        title="Calibration", x_name="Predicted risk", y_name="Observed share", diagonal=True,
        metric="calibration_slope", at="predicted risk", says="observed share", told_at=None,
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LabelCurves:
    """All curves of a label, and the legend that they share."""

    name: str
    pictures: tuple[Picture, ...]
    legend: tuple[tuple[str, Markup], ...]


def of_headline(results: Results, task: str, kinds: Sequence[str], *, model: str) -> dict[str, list[Curve]]:
    """Label -> curves of these kinds from the headline inputs, in order; labels without any are left out."""
    place = {name: at for at, name in enumerate(view.site_order(results))}
    wanted = (task, view.headline_modalities(results, task), model)
    mine = [
        c for c in results.curves if (c.task, c.modalities, c.model) == wanted and c.kind in kinds and c.site in place
    ]
    found: dict[str, list[Curve]] = {label: [] for label in results.study.tasks[task]}
    for curve in sorted(mine, key=lambda curve: place[curve.site]):
        found.setdefault(curve.label, []).append(curve)
    return {label: curves for label, curves in found.items() if curves}


def labels(results: Results, task: str, index: int) -> list[LabelCurves]:
    """The pictures of every label of a task that has curves."""
    model = curve_model(results)
    found = of_headline(results, task, tuple(PANELS), model=model)
    told = []
    for at, (label, curves) in enumerate(found.items()):
        pictures = [
            _picture(results, [c for c in curves if c.kind == kind], key=f"{kind}{index}-{at}")
            for kind in PANELS
            if any(c.kind == kind for c in curves)
        ]
        sites = list(dict.fromkeys(curve.site for curve in curves))
        told.append(LabelCurves(name=label or task, pictures=tuple(pictures), legend=tuple(legend(results, sites))))
    return told


def curve_model(results: Results) -> str:
    """The model of the page; curves of a run that judged under another name carry the field's default."""
    models, main = {curve.model for curve in results.curves} - {view.RECALIBRATED}, view.main_model(results)
    return main if main in models else next(iter(sorted(models)), main)


def _picture(results: Results, curves: Sequence[Curve], *, key: str) -> Picture:
    panel, style = PANELS[curves[0].kind], looks(results)
    with canvas(*SIZE, key=key) as drawn:
        axes = drawn.figure.add_subplot()
        frame(axes, panel)
        for curve in reversed(curves):  # external sites last: on top
            draw(axes, curve, style[curve.site])
    said = "; ".join(f"{curve.site}: {_words(results, curve, panel)}" for curve in curves)
    first = curves[0]
    named = f"{first.task}, {first.label}" if first.label else first.task
    return Picture(svg=drawn.svg, alt=f"{panel.title} of {named}. {said}.", caption=panel.title)


def frame(axes: Axes, panel: Panel, *, title: str = "") -> None:
    """A unit square with a diagonal where that means something; ``title``: another one."""
    axes.set(xlabel=panel.x_name, ylabel=panel.y_name, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.set_title(title or panel.title)
    axes.set_xticks([0, 0.5, 1.0])
    axes.set_yticks([0, 0.5, 1.0])
    axes.grid(color=GRID, linewidth=0.7)
    if panel.diagonal:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))


def draw(axes: Axes, curve: Curve, look: Look) -> None:
    """One site's curve."""
    x, y = curve.x, curve.y
    if curve.kind == "roc":
        x, y = (0.0, *x), (0.0, *y)
    (line,) = axes.plot(x, y, color=look.colour, linestyle=look.dash, linewidth=look.width)
    if curve.kind == "calibration":
        line.set(marker="D" if look.external else "o", markersize=5 if look.external else 3.5)


def _words(results: Results, curve: Curve, panel: Panel) -> str:
    """The number that sums a curve up, then its points, or the one that a reader would look for."""
    found = {"site": curve.site, "task": curve.task, "label": curve.label, "modalities": curve.modalities}
    row = view.find(results.evaluation, **found, metric=panel.metric, model=view.main_model(results))
    summed = "" if row is None or row.value is None else f"{METRICS[row.metric].title} {view.estimate(row)}, "
    points = list(zip(curve.x, curve.y, strict=True))
    if panel.told_at is not None:
        wanted = panel.told_at
        points = [min(points, key=lambda point: abs(point[0] - wanted))]
    return summed + ", ".join(f"{panel.says} {y:.3f} at {panel.at} {x:.3f}" for x, y in points)
