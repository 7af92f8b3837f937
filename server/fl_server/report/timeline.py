"""The risk timeline as figures: at each window, what was predicted in each band of risk and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from fl_server.report import view
from fl_server.report.style import BAND_DASHES as _DASHES
from fl_server.report.style import BAND_NAMES, BAND_WIDTHS, GRID, INK, MUTED, Picture, canvas
from fl_server.report.style import BANDS as _COLOURS
from fl_shared.results import Curve, Results

_MARKS = ("v", "o", "^")
_JOINED = "s"
_FILLED, _HOLLOW = 5.5, 10.0  # points


def pictures(results: Results, task: str, index: int) -> list[Picture]:
    """The risk timeline of an outcome; of competing ones a picture a cause."""
    roles = {name: view.ROLE_NAMES[site.role] for name, site in results.sites.items()}
    rows = {site: f"{site} ({roles[site]})" for site in sites(results)}
    found = []
    for at, (label, curves) in enumerate(timelines(results, task).items()):
        svg = figure(curves, rows, days=days(results), top=highest(results), key=f"timeline{index}-{at}")
        named = f"{task}, {label}" if label else task
        alt = f"Predicted and observed risk of {named}, by day and band of risk. {words(curves)}"
        found.append(Picture(svg=svg, alt=alt, caption=named))
    return found


def timelines(results: Results, task: str) -> dict[str, list[Curve]]:
    """Label ('' or a cause) -> its bands from the headline inputs, by site (external first) and day."""
    place, wanted = view.site_order(results), view.headline_modalities(results, task)
    survival = results.study.types[task] == "survival"
    found: dict[str, list[Curve]] = {}
    for curve in sorted(_banded(results), key=lambda c: (place.index(c.site), c.day or 0.0)):
        if curve.task == task and curve.modalities == wanted:
            found.setdefault("" if survival else curve.label, []).append(curve)
    return found


def sites(results: Results) -> list[str]:
    """Sites with a timeline of any task: a row in every figure, so that outcomes can be compared across."""
    told = {curve.site for curve in _banded(results)}
    return [site for site in view.site_order(results) if site in told]


def days(results: Results) -> list[float]:
    """The days of all timelines: one axis for every outcome."""
    return sorted({curve.day for curve in _banded(results) if curve.day is not None})


def figure(curves: Sequence[Curve], rows: Mapping[str, str], *, days: Sequence[float], top: float, key: str) -> Markup:
    """The timeline of one outcome as one SVG element, a panel a site.

    Args:
        curves: see `timelines`.
        rows: site -> its title, in order.
        days: the axis of time.
        top: end of the axis of risk.
        key: see `inline_svg`.
    """
    with canvas(5.2, 0.95 + 1.75 * len(rows), key=key) as drawn:
        whole = drawn.figure
        for axes, (site, title) in zip(whole.subplots(len(rows), 1, squeeze=False)[:, 0], rows.items(), strict=True):
            axes.set(title=title, xlim=(-0.4, len(days) - 0.6), ylim=(-0.03 * top, 1.03 * top))
            axes.set_xticks(range(len(days)), [f"{day:g}" for day in days])
            axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
            axes.grid(axis="y", color=GRID, linewidth=0.7)
            axes.set_axisbelow(True)
            _panel(axes, [curve for curve in curves if curve.site == site], days)
        whole.axes[-1].set_xlabel("Days")
        whole.legend(handles=_legend(), loc="outside lower center", ncols=5, handlelength=2.2, columnspacing=1.0)
    return drawn.svg


def _panel(axes: Axes, curves: Sequence[Curve], days: Sequence[float]) -> None:
    if not curves:
        said = axes.text(0.5, 0.5, "withheld: too few patients or events", color=MUTED, style="italic")
        said.set(ha="center", va="center", transform=axes.transAxes)
    at = [days.index(curve.day) for curve in curves if curve.day is not None]
    for band, colour in enumerate(_COLOURS):
        observed = [curve.y[band] for curve in curves]
        axes.plot(at, observed, color=colour, linestyle=_DASHES[band], linewidth=BAND_WIDTHS[band])
    for place, curve in zip(at, curves, strict=True):
        for (predicted, observed_), bands in _groups(curve):
            alone = len(bands) == 1
            colour, mark = (_COLOURS[bands[0]], _MARKS[bands[0]]) if alone else (INK, _JOINED)
            axes.vlines(place, predicted, observed_, color=colour, linewidth=1)
            axes.plot([place], [observed_], color=colour, marker=mark, markersize=_FILLED)
            axes.plot([place], [predicted], color=colour, marker=mark, markersize=_HOLLOW, markerfacecolor="none")


def _legend() -> list[Line2D]:
    bands = [
        Line2D([], [], color=_COLOURS[b], linestyle=_DASHES[b], linewidth=BAND_WIDTHS[b], marker=_MARKS[b], label=name)
        for b, name in enumerate(BAND_NAMES)
    ]
    joined = Line2D([], [], color=INK, linestyle="none", marker=_JOINED, markersize=_FILLED, label="joined")
    hollow = Line2D([], [], color=MUTED, linestyle="none", marker="o", markersize=_HOLLOW, markerfacecolor="none")
    hollow.set_label("predicted")
    return [*bands, joined, hollow]


def words(curves: Sequence[Curve]) -> str:
    """All numbers of a timeline, for those who cannot see it."""
    return " ".join(
        f"{site}: " + "; ".join(f"by day {curve.day:g} {_said(curve)}" for curve in group) + "."
        for site, group in groupby(curves, key=lambda curve: curve.site)
    )


def _said(curve: Curve) -> str:
    return ", ".join(
        f"{' and '.join(BAND_NAMES[band] for band in bands)} predicted {x:.1%}, observed {y:.1%}"
        for (x, y), bands in _groups(curve)
    )


def _groups(curve: Curve) -> Iterator[tuple[tuple[float, float], list[int]]]:
    """Predicted and observed risk at a window, and the bands told with it: of a joined group, all."""
    for point, bands in groupby(range(len(BAND_NAMES)), key=lambda band: (curve.x[band], curve.y[band])):
        yield point, list(bands)


def highest(results: Results) -> float:
    """The least whole tenth above every risk of every timeline, so that all have one axis."""
    numbers = [number for curve in _banded(results) for number in (*curve.x, *curve.y)]
    return min(1.0, (int(10 * max(numbers, default=0.0)) + 1) / 10)


def _banded(results: Results) -> list[Curve]:
    return [curve for curve in results.curves if curve.kind == "bands" and curve.site in results.sites]
