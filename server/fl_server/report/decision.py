"""Decision curves: the net benefit of acting on the model, beside treating everybody and treating nobody.

A panel a site: treating everybody depends on how common the outcome is there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl_server.report import view
from fl_server.report.curves import LabelCurves, curve_model, of_headline
from fl_server.report.style import GRID, MUTED, Picture, canvas, looks
from fl_shared.results import Curve, Results

SIZE = (3.3, 2.75)  # inches of a panel
_TOLD_AT = (0.1, 0.2, 0.3, 0.5)
"""Thresholds near which the net benefit is told in words."""


@dataclass(frozen=True, kw_only=True)
class _Common:
    """How many had the outcome at a site."""

    n: int
    events: int

    def treat_all(self, threshold: NDArray[np.float64]) -> NDArray[np.float64]:
        """Net benefit of treating everybody: true positives less false ones, weighed by the odds of the threshold."""
        share = self.events / self.n
        found: NDArray[np.float64] = share - (1 - share) * threshold / (1 - threshold)
        return found


def labels(results: Results, task: str, index: int) -> list[LabelCurves]:
    """The pictures of every label of a task that has decision curves, a picture a site."""
    found = of_headline(results, task, ("decision",), model=curve_model(results))
    return [
        LabelCurves(
            name=label or task,
            pictures=tuple(_picture(results, c, key=f"decision{index}-{at}-{i}") for i, c in enumerate(curves)),
            legend=(),
        )
        for at, (label, curves) in enumerate(found.items())
    ]


def _picture(results: Results, curve: Curve, *, key: str) -> Picture:
    look, common = looks(results)[curve.site], _common(results, curve)
    x, y = np.array(curve.x), np.array(curve.y)
    grid = np.linspace(0.0, min(max(x), 0.99), 60)
    everybody = common.treat_all(grid) if common else np.zeros(0)
    top = max([0.02, *y, *everybody])
    with canvas(*SIZE, key=key) as drawn:
        axes = drawn.figure.add_subplot()
        axes.axhline(0, color=MUTED, linewidth=1.1)
        if common:
            axes.plot(grid, everybody, color=MUTED, linewidth=1.3, linestyle=(0, (4, 3)))
        axes.plot(x, y, color=look.colour, linewidth=2.2, marker="o", markersize=2.5)
        axes.set(xlabel="Threshold", ylabel="Net benefit", xlim=(0, 1.02 * max(x)), ylim=(-0.25 * top, 1.1 * top))
        axes.grid(color=GRID, linewidth=0.7)
        axes.locator_params(nbins=4)
    role = view.ROLE_NAMES[results.sites[curve.site].role]
    named = f"{curve.task}, {curve.label}" if curve.label else curve.task
    near = dict.fromkeys(int(np.abs(x - threshold).argmin()) for threshold in _TOLD_AT if threshold <= max(x))
    said = ", ".join(f"{y[i]:.3f} at threshold {x[i]:.3f}" for i in near)
    return Picture(
        svg=drawn.svg,
        alt=f"Decision curve of {named} at {curve.site}. Net benefit of the model {said}."
        + ("" if common else " Treating everybody is not drawn: the number of events is withheld."),
        caption=f"{curve.site} ({role})",
    )


def _common(results: Results, curve: Curve) -> _Common | None:
    """Events among the judged samples of a curve, where they are told."""
    wanted = {"site": curve.site, "task": curve.task, "label": curve.label, "modalities": curve.modalities}
    rows = (row for row in view.plain(results.evaluation) if view.is_of(row, wanted))
    return next((_Common(n=row.n, events=row.events) for row in rows if row.n and row.events is not None), None)
