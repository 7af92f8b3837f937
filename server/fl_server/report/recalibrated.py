"""The report's comparison of raw and recalibrated risks: calibration of both, label by label and site by site."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from fl_server.report import view
from fl_server.report.curves import PANELS, draw, frame
from fl_server.report.style import canvas, legend, looks
from fl_shared.metrics.table import METRICS, MetricName
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
    legend: tuple[tuple[str, Markup], ...]
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
    rows = tuple(_compared(results, task=task, label=label, modalities=inputs))
    return Pair(
        name=name,
        shift=moved.shift,
        svg=_figure(results, curves, key=f"recalibrated{index}") if curves else None,
        alt=f"Predicted risk and observed share of {name} before and after recalibration. {_words(rows)}.",
        legend=tuple(legend(results, list(dict.fromkeys(curve.site for curve in curves)))),
        rows=rows,
    )


def _words(rows: tuple[Compared, ...]) -> str:
    """The first of the metrics at each site, before and after."""
    title = METRICS[SHOWN[0]].title
    said = (f"{row.site} {view.estimate(row.cells[0][0])} then {view.estimate(row.cells[0][1])}" for row in rows)
    return f"{title}: {'; '.join(said)}"


def _compared(results: Results, **wanted: str) -> Iterator[Compared]:
    for site in view.site_order(results):
        models = [{**wanted, "site": site, "model": model} for model in (view.main_model(results), view.RECALIBRATED)]
        cells = [tuple(view.find(results.evaluation, **of, metric=metric) for of in models) for metric in SHOWN]
        if any(cell is not None for both in cells for cell in both):
            yield Compared(site=site, cells=tuple((before, after) for before, after in cells))


def _figure(results: Results, curves: list[Curve], *, key: str) -> Markup:
    """Both calibrations on one scale, as one SVG element."""
    style = looks(results)
    with canvas(7.6, 3.3, key=key) as drawn:
        titles = {False: "As trained", True: "Recalibrated"}
        for axes, (after, title) in zip(drawn.figure.subplots(1, 2), titles.items(), strict=True):
            frame(axes, PANELS["calibration"], title=title)
            for curve in reversed([curve for curve in curves if (curve.model == view.RECALIBRATED) is after]):
                draw(axes, curve, style[curve.site])
    return drawn.svg
