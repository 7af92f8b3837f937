"""Forests: a table whose rows have an estimate, its interval, and both drawn on one axis.

The numbers stand in the table as text; the drawing beside them is for the eye alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from markupsafe import Markup

from fl_server.report import view
from fl_shared.metrics.table import Metric

WIDTH, HEIGHT = 300.0, 22.0  # of a drawing, in its own units
_MARGIN = 7.0  # so that a mark at the end of the axis is whole


@dataclass(frozen=True, kw_only=True)
class Axis:
    """low, high: the ends. reference: where nothing is gained (chance, no difference); a dashed line."""

    low: float
    high: float
    reference: float | None = None

    def at(self, value: float) -> float:
        """Where a value is drawn; beyond the ends, at the end."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return _MARGIN + share * (WIDTH - 2 * _MARGIN)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Ends and reference: percent of the width, and words."""
        marks = {self.low: f"{self.low:.3g}", self.high: f"{self.high:.3g}"}
        if self.reference is not None:
            near = 0.18 * (self.high - self.low)
            marks = {value: said for value, said in marks.items() if abs(value - self.reference) > near}
            marks[self.reference] = f"{self.reference:.3g}"
        return [(100 * self.at(value) / WIDTH, said) for value, said in sorted(marks.items())]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row. kind: how it is marked. predicted: prediction interval. cells: more columns, as text."""

    name: str
    told: view.Told
    kind: str  # external, train, summary
    about: str = ""
    worst: bool = False
    predicted: tuple[float, float] | None = None
    cells: tuple[str, ...] = ()

    @property
    def n(self) -> int | None:
        """Judged samples; a summary has none."""
        return getattr(self.told, "n", None)

    @property
    def numbers(self) -> list[float]:
        """All that must find room on the axis; a prediction interval of few sites would leave none for the others."""
        mine = (self.told.value, self.told.ci_low, self.told.ci_high)
        return [number for number in mine if number is not None]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows under a heading; '' for none."""

    name: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, kw_only=True)
class Forest:
    """A table of groups on one axis. columns: titles of the lines' further cells."""

    caption: str
    groups: tuple[Group, ...]
    axis: Axis
    columns: tuple[str, ...] = ()
    first: str = "Site"

    def drawn(self, line: Line) -> Markup:
        """The mark of a row: circle of a training site, square of an external one, diamond of a summary."""
        told, axis, tone = line.told, self.axis, f"mark-{line.kind}"
        parts = []
        if axis.reference is not None:
            parts.append(f'<path class="mark-reference" d="M{axis.at(axis.reference):.1f} 0V{HEIGHT:g}"/>')
        if line.predicted:
            low, high = map(axis.at, line.predicted)
            ends = "".join(f"M{axis.at(end):.1f} 7V15" for end in line.predicted if axis.low <= end <= axis.high)
            parts.append(f'<path class="mark-predicted" d="M{low:.1f} 11H{high:.1f}{ends}"/>')
        if told.value is not None:
            at = axis.at(told.value)
            left, right = (at if end is None else axis.at(end) for end in (told.ci_low, told.ci_high))
            if line.kind == "summary":
                shape = f"M{min(left, at - 4):.1f} 11L{at:.1f} 4L{max(right, at + 4):.1f} 11L{at:.1f} 18Z"
            else:
                parts.append(f'<path class="mark-line {tone}" d="M{left:.1f} 11H{right:.1f}"/>')
                square = f"M{at - 4.5:.1f} 6.5h9v9h-9Z"
                circle = f"M{at - 4.5:.1f} 11a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0Z"
                shape = square if line.kind == "external" else circle
            parts.append(f'<path class="{tone}" d="{shape}"/>')
        box = f'viewBox="0 0 {WIDTH:g} {HEIGHT:g}" preserveAspectRatio="xMidYMid meet"'
        return Markup(f'<svg class="mark" {box} aria-hidden="true">{"".join(parts)}</svg>')


def axis_of(metric: Metric, lines: Sequence[Line]) -> Axis:
    """The axis of a metric: of a share from about one half to 1, of what has a unit about all intervals."""
    numbers = [number for line in lines for number in line.numbers]
    if isfinite(metric.low) and isfinite(metric.high):
        floor = min([0.5 if metric.higher_is_better else metric.high, *numbers])
        low = max(metric.low, _down(floor - 0.02))
        high = metric.high if metric.higher_is_better else min(metric.high, -_down(-max([*numbers, low]) - 0.02))
        return Axis(low=low, high=max(high, low + 0.1), reference=metric.chance)
    low, high = min(numbers, default=0.0), max(numbers, default=1.0)
    margin = 0.05 * (high - low) or 0.5
    ideal = metric.chance if metric.ideal is None else metric.ideal
    reference = ideal if ideal is not None and low <= ideal <= high else None
    return Axis(low=max(metric.low, low - margin), high=high + margin, reference=reference)


def around_zero(lines: Sequence[Line]) -> Axis:
    """The axis of differences: as far to the left of 0 as to the right."""
    far = 1.08 * max((abs(number) for line in lines for number in line.numbers), default=0.0) or 0.1
    return Axis(low=-far, high=far, reference=0.0)


def _down(value: float) -> float:
    """The next tenth below."""
    return round((value // 0.1) * 0.1, 1)
