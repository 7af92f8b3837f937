"""Learning curves of a task: its headline at each training site over the rounds, a panel a site on common axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from fl_server.report import view
from fl_server.report.style import GRID, INK, MUTED, Picture, canvas
from fl_shared.metrics.table import METRICS, Metric
from fl_shared.results import LearningPoint, PhaseResult, Results

SIZE = (3.3, 2.5)  # inches of a panel
MOST = 40  # rows of the table
MOST_SAID = 8  # points of a curve in words
T = TypeVar("T")
_Site = Mapping[int, LearningPoint]
"""Round -> what a site told of it."""


@dataclass(frozen=True, kw_only=True)
class Learning:
    """columns: sites. rows: round, its phase ('' where there is one only), and a cell a site. left_out: rows."""

    pictures: tuple[Picture, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[int, str, tuple[LearningPoint | None, ...]], ...]
    left_out: bool


@dataclass(frozen=True, kw_only=True)
class _Axes:
    """What all panels of a task share."""

    metric: Metric
    rounds: tuple[int, ...]
    low: float
    high: float
    phases: tuple[PhaseResult, ...]
    last: int


def learning(results: Results, task: str, index: int) -> Learning | None:
    """The curves of a task's headline label; None without any point."""
    label = view.headline_label(results, task)
    told: dict[str, dict[int, LearningPoint]] = {}
    for point in results.learning:
        if (point.task, point.label) == (task, label):
            told.setdefault(point.site, {})[point.round] = point
    sites = [site for site in view.site_order(results) if site in told]
    if not sites:
        return None
    shared = _axes(results, [point for site in sites for point in told[site].values()])
    named = " ".join(filter(None, (task, label if label != "macro" else "")))
    rows = [
        (number, _phase(shared.phases, number), tuple(told[s].get(number) for s in sites)) for number in shared.rounds
    ]
    return Learning(
        pictures=tuple(_picture(told, site, shared, named, key=f"learn{index}-{at}") for at, site in enumerate(sites)),
        columns=tuple(sites),
        rows=tuple(_some(rows, MOST)),
        left_out=len(rows) > MOST,
    )


def _axes(results: Results, points: Sequence[LearningPoint]) -> _Axes:
    metric = METRICS[points[0].metric]
    ends = [end for point in points for end in (point.ci_low, point.ci_high)]
    ends += [metric.chance] if metric.chance is not None else []
    room = 0.05 * (max(ends) - min(ends)) or 0.05
    phases = results.study.phases
    return _Axes(
        metric=metric,
        rounds=tuple(sorted({point.round for point in points})),
        low=min(ends) - room,
        high=max(ends) + room,
        phases=phases if len(phases) > 1 else (),
        last=max([phase.last for phase in phases] + [point.round for point in points]),
    )


def _phase(phases: Sequence[PhaseResult], number: int) -> str:
    return next((phase.name for phase in phases if phase.first <= number <= phase.last), "")


def _picture(told: Mapping[str, _Site], site: str, shared: _Axes, named: str, *, key: str) -> Picture:
    with canvas(*SIZE, key=key) as drawn:
        axes = drawn.figure.add_subplot()
        _frame(axes, shared)
        for other in told:
            if other != site:
                axes.plot(shared.rounds, _line(told[other], shared, "value"), color=MUTED, linewidth=0.7, alpha=0.5)
        low, high = (_line(told[site], shared, end) for end in ("ci_low", "ci_high"))
        axes.fill_between(shared.rounds, low, high, color=INK, alpha=0.16, linewidth=0)
        value = _line(told[site], shared, "value")
        axes.plot(shared.rounds, value, color=INK, linewidth=1.8, marker="o", markersize=3)
        for number, point in told[site].items():  # a band has no width at a point that stands alone
            axes.vlines(number, point.ci_low, point.ci_high, color=INK, linewidth=0.8, alpha=0.4)
    said = "; ".join(f"{view.estimate(p)} after round {p.round}" for p in _some([*told[site].values()], MOST_SAID))
    alt = f"{shared.metric.title} of {named} at {site} by round. {said}."
    return Picture(svg=drawn.svg, alt=alt, caption=site)


def _frame(axes: Axes, shared: _Axes) -> None:
    """Axes, the line of chance, and where phases begin."""
    axes.set(xlabel="Round", ylabel=shared.metric.title, xlim=(0.5, shared.last + 0.5), ylim=(shared.low, shared.high))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    if shared.metric.chance is not None:
        axes.axhline(shared.metric.chance, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    for phase in shared.phases:
        if phase.first > 1:
            axes.axvline(phase.first - 0.5, color=MUTED, linewidth=0.9, linestyle=(0, (1.5, 1.5)))
        middle = (phase.first + phase.last) / 2
        said = axes.text(middle, 1.01, phase.name, transform=axes.get_xaxis_transform(), color=MUTED, fontsize=8.5)
        said.set(ha="center", va="bottom")


def _line(told: _Site, shared: _Axes, field: str) -> list[float]:
    """A number at each round; a round without a point breaks the line."""
    return [getattr(told[number], field) if number in told else math.nan for number in shared.rounds]


def _some(each: Sequence[T], most: int) -> list[T]:
    """All, or evenly spread ones with the first and the last."""
    if len(each) <= most:
        return list(each)
    return [each[round(at * (len(each) - 1) / (most - 1))] for at in range(most)]
