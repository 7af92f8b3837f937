"""The report's comparison of raw and recalibrated risks: calibration of both, label by label and site by site."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from fl_server.report import figures, view
from fl_shared.metrics.table import MetricName
from fl_shared.page import inline_svg
from fl_shared.results import Curve, EvaluationRow, Results

SHOWN: tuple[MetricName, ...] = ("expected_observed", "calibration_slope", "ece")


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One label at one site: each metric of the raw and the recalibrated model."""

    site: str
    cells: tuple[tuple[EvaluationRow | None, EvaluationRow | None], ...]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One label: how far its intercept moved, and what that did."""

    name: str
    shift: float
    svg: Markup | None
    alt: str
    rows: tuple[Compared, ...]


def pairs(results: Results) -> list[Pair]:
    """Every label whose intercept could be refitted."""
    return [_pair(results, index) for index in range(len(results.shifts))]


def _pair(results: Results, index: int) -> Pair:
    moved = results.shifts[index]
    task, label, inputs = moved.task, moved.label, view.headline_modalities(results, moved.task)
    chosen = (task, label, inputs, "calibration")
    curves = [c for c in results.curves if (c.task, c.label, c.modalities, c.kind) == chosen]
    name = f"{task}, {label}" if label else task
    return Pair(
        name=name,
        shift=moved.shift,
        svg=Markup(_figure(results, curves, key=f"recalibrated{index}")) if curves else None,
        alt=f"Predicted risk and observed share of {name} before and after recalibration, as in the table.",
        rows=tuple(_compared(results, task=task, label=label, modalities=inputs)),
    )


def _compared(results: Results, **wanted: str) -> Iterator[Compared]:
    for site in view.site_order(results):
        models = [{**wanted, "site": site, "model": model} for model in (_raw(results), view.RECALIBRATED)]
        cells = [tuple(view.find(results.evaluation, **of, metric=metric) for of in models) for metric in SHOWN]
        if any(cell is not None for both in cells for cell in both):
            yield Compared(site=site, cells=tuple((before, after) for before, after in cells))


def _raw(results: Results) -> str:
    return next((row.model for row in results.evaluation if row.model != view.RECALIBRATED), "")


def _figure(results: Results, curves: list[Curve], *, key: str) -> str:
    """Both calibrations on one scale, as one SVG element."""
    external = frozenset(name for name, site in results.sites.items() if site.role == "external")
    style = figures.looks(view.site_order(results), external)
    with mpl.rc_context(figures.STYLE):
        figure = Figure(figsize=(9.2, 4.2), layout="constrained")
        titles = {False: "As trained", True: "Recalibrated"}
        for axes, (after, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
            found = [curve for curve in curves if (curve.model == view.RECALIBRATED) is after]
            figures.calibration_panel(axes, found, style, title=title)
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles[::-1], names[::-1], loc="outside lower center", ncols=min(5, max(1, len(names))))
        return inline_svg(figure, key=key, variables=figures.VARIABLES)
